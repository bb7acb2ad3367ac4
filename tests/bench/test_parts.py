from dataclasses import replace

import numpy as np
import pytest
import torch

from impala_mi.bench import parts
from impala_mi.bench.measure import per_frame
from impala_mi.config import build
from impala_mi.envs.conformance import check_game
from impala_mi.envs.suites import make_suite
from impala_mi.types import Spaces
from tests.games import CountingBatch
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_cost_is_of_a_frame():
    def work():
        sum(range(300_000))  # some milliseconds

    one, ten = per_frame(work, 1, 0.3), per_frame(work, 10, 0.3)
    assert 5 < one.cpu_us / ten.cpu_us < 20
    assert one.cpu_us < 1.3 * one.wall_us


def test_every_level_is_stepped():
    config = tiny_config()
    suite = make_suite(config.env)
    rows = list(parts.environment_rows(config, suite, 0.05))
    assert [row["level"] for row in rows] == suite.level_names
    assert all(row["steps/s"] > 0 for row in rows)


def test_games_that_come_in_batches_are_stepped_in_the_number_of_an_actor():
    config = tiny_config("env.suite=tests.games:counting_batches", "env.levels=[terminates, truncates]")
    suite, sizes = make_suite(config.env), []

    def make(level, size):
        sizes.append(size)
        return CountingBatch(level, size)

    rows = list(parts.environment_rows(config, replace(suite, make_batch=make), 0.05))
    assert [row["level"] for row in rows] == ["terminates", "truncates"]
    assert sizes == [3, 3]  # five environments, two levels


def test_a_learner_row_tells_the_stages():
    config = tiny_config("agent.torso=mlp")
    row = parts.update_row(config, make_suite(config.env).spaces, torch.device("cpu"), 0.2)
    assert {"frames/s", "cpu us/frame", "forward", "backward", "optimizer", "copy"} <= set(row)


def test_noise_has_levels_instructions_and_episode_starts():
    spaces = Spaces((24, 24, 3), "uint8", 4, 3, instructions=True)
    data = parts.random_unrolls(spaces, build("x", {}, []), 200, 6)
    assert set(data.inputs.level[0]) == {0, 1, 2}
    assert data.inputs.first.any()
    assert (data.inputs.tokens[:, :, :4] >= 0).all()
    assert len(np.unique(data.inputs.frame)) > 200


def test_noise_is_a_suite_like_any():
    suite = make_suite(build("x", {"env": {"suite": "noise"}}, []).env)
    check_game(suite, "noise", steps=400)
