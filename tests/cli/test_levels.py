"""Command `impala-mi levels`: its description of a suite."""

import pytest
from click.testing import CliRunner

from impala_mi.cli.levels import command, describe
from impala_mi.types import Box, Discrete, MultiDiscrete


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Discrete(9), "9 actions"),
        (MultiDiscrete((3, 5)), "choices of 3 and 5 actions"),
        (MultiDiscrete((2, 3, 4)), "choices of 2, 3 and 4 actions"),
        (MultiDiscrete((4,)), "a choice of 4 actions"),
        (Box((-1.0, 0.0), (1.0, 2.0)), "2 real numbers"),
        (Box((-2.0,), (2.0,)), "1 real number"),
    ],
)
def test_action_spaces_in_words(space, words):
    assert describe(space) == words


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tiny"], "tiny: frames [5, 5, 1] uint8, 3 actions (left, stay, right), action repeat 1, instructions"),
        (["gym", "env.levels=[CartPole-v1]"], "gym: frames [4] float32, 2 actions (0, 1), action repeat 1"),
        (["gym", "env.levels=[Pendulum-v1]"], "gym: frames [3] float32, 1 real number (0), action repeat 1"),
    ],
)
def test_the_first_line_describes_the_suite(monkeypatch, arguments, says):
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.startswith(says)
