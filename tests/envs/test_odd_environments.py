"""Gymnasium environments that do not keep to their spaces: refused before a run, or an episode is lost."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.config import EnvConfig, build
from impala_mi.envs import base, faults
from impala_mi.envs.base import LevelBroken
from impala_mi.envs.outcome_checks import RANGE_SLACK, FrameBounds
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def odd(name: str, **changes):
    return make_suite(EnvConfig(suite="gym", levels=[f"tests.gym_envs:{name}-v0"], **changes))


def faults_of(name: str, steps: int):
    environment = odd(name).make_environment(0, EpisodeSeeds([1], name), "first")
    environment.reset()
    for _ in range(steps):
        environment.step(1)
    return environment.take_stats().faults


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("FirstNan", "first reset: ValueError: an observation that is not finite"),
        ("Short", r"shape \[1\] and dtype float32; the environment's space has \[4\] float32"),
        ("FloatPicture", r"shape \[8, 8, 3\] and dtype float64; the environment's space has \[8, 8, 3\] uint8"),
        ("SignedPicture", "dtype int16; the environment's space has .* uint8"),
        ("FloatImage", "only images .uint8.* a wrapper in env.gym.wrappers"),
        ("FourAxesPicture", "only images .uint8.* a wrapper in env.gym.wrappers"),
        (
            "FirstOutside",
            r"an observation with 7.5 at \[2\], where the environment's space has -1.0 to 1.0; 1 of 4 ",
        ),
        ("BrightMask", r"an observation with 255 at \[0, 0, 0\], .* has 0 to 1; 2016 of 2016 numbers are outside"),
        ("ClosesBadly", "'tests.gym_envs:ClosesBadly-v0' cannot be closed: RuntimeError: already closed"),
    ],
)
def test_what_is_refused_before_a_run(name, says):
    with pytest.raises(UserError, match=says) as e:
        odd(name).check()
    assert f"tests.gym_envs:{name}-v0" in str(e.value)


@pytest.mark.parametrize(
    ("name", "step", "says"),
    [
        ("LateNan", 2, "an observation with nan, which is not finite"),
        ("NanReward", 4, "a reward of nan, which is not finite"),
        ("Raises", 6, "KeyError: 'lost'"),
    ],
)
def test_an_episode_is_lost_with_its_level_seed_and_step(name, step, says, monkeypatch):
    monkeypatch.setattr(faults, "backoff", lambda *_: 0.0)
    fault, *_ = faults_of(name, 8)
    assert fault.kind == "error"
    assert f"level 'tests.gym_envs:{name}-v0', seed {fault.seed}, step {step}: " in fault.message
    assert says in fault.message


def test_numbers_that_leave_their_bounds_later_are_told_once_and_cost_no_episode(monkeypatch):
    monkeypatch.setattr(base, "BOUNDS_STEPS", 2)
    environment = odd("LaterOutside").make_environment(0, EpisodeSeeds([1], "x"), "first")
    environment.reset()
    steps = [environment.step(1) for _ in range(20)]
    assert [step.terminated for step in steps] == [False] * 19 + [True]
    for _ in range(40):
        environment.step(1)
    [fault] = environment.take_stats().faults
    assert fault.kind == "range"
    assert (
        f"level 'tests.gym_envs:LaterOutside-v0', seed {fault.seed}, step 0: an observation with -3.0 at [2], "
        in (fault.message)
    )
    assert "the environment's space has -1.0 to 1.0; 1 of 4 numbers" in fault.message, "rounding is allowed"


def test_steps_are_looked_at_at_random_times_and_the_checks_are_few(monkeypatch):
    looked_at = []
    monkeypatch.setattr(FrameBounds, "check", lambda self, frame: looked_at.append(frame))
    environment = make_suite(EnvConfig(suite="gym", levels=["Pendulum-v1"])).make_environment(
        0, EpisodeSeeds([1], "x"), "first"
    )
    environment.reset()
    for _ in range(30 * base.BOUNDS_STEPS):
        environment.step(np.zeros(1, np.float32))
    resets = 1 + 30 * base.BOUNDS_STEPS // 200
    assert 20 < len(looked_at) - resets < 45


@pytest.mark.parametrize("frame_dtype", ["uint8", "float32"])
def test_bounds_that_the_dtype_has_anyway_are_not_looked_at(frame_dtype):
    name = "FramesFirst" if frame_dtype == "uint8" else "Unbounded"
    assert odd(name).make_game(f"tests.gym_envs:{name}-v0").bounds is None


@given(bound=st.floats(-(2.0**126), 2.0**126, width=32), exponent=st.integers(-20, 6))
def test_rounding_may_leave_bounds_and_more_may_not(bound, exponent):
    low, high = np.float32([bound]), np.float32([np.inf])
    slack = RANGE_SLACK * max(abs(bound), 1)
    FrameBounds(low, high).check(np.float32([bound - slack / 2]))
    FrameBounds(low, high).check(np.float32([bound + 2.0**exponent]))
    with pytest.raises(ValueError, match="numbers are outside"):
        FrameBounds(low, high).check(np.float32([bound - 2 * slack]))
    with pytest.raises(ValueError, match="numbers are outside"):
        FrameBounds(-high, low).check(np.float32([bound + 2 * slack]))


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCar-v0", "Acrobot-v1", "Pendulum-v1"])
def test_gymnasiums_own_environments_keep_their_bounds(name, monkeypatch):
    monkeypatch.setattr(base, "BOUNDS_STEPS", 1)
    suite = make_suite(EnvConfig(suite="gym", levels=[name]))
    suite.check()
    environment = suite.make_environment(0, EpisodeSeeds([1], name), "first")
    assert environment._bounds is not None
    environment.reset()
    space, rng = suite.spaces.action_space, np.random.default_rng(0)
    for action in space.env_actions(space.random(rng, 1000)):
        environment.step(action)
    assert not environment.take_stats().faults


@pytest.mark.parametrize(("name", "says"), [("HugeReward", r"a reward of 1e\+39"), ("NoReward", "NoneType")])
def test_a_systematic_breach_ends_the_run(name, says, monkeypatch):
    monkeypatch.setattr(faults, "backoff", lambda *_: 0.0)
    with pytest.raises(LevelBroken, match=f"failed 10 times in a row: .*{says}"):
        faults_of(name, 100)


def test_frames_before_height_and_width_are_turned_with_a_note():
    suite = odd("FramesFirst")
    assert suite.spaces.frame_shape == (24, 28, 4)
    with pytest.warns(UserWarning, match=r"FramesFirst-v0: pictures \[4, 24, 28\] are turned into \[24, 28, 4\]"):
        suite.check()
    frame = suite.make_game(suite.level_names[0]).reset(0).frame
    assert frame.shape == (24, 28, 4)
    assert np.array_equal(frame[3, 5], [0, 1, 2, 3])


def test_four_axes_of_numbers_are_flattened():
    suite = odd("FourAxes")
    suite.check()
    frame = suite.make_game(suite.level_names[0]).reset(0).frame
    assert frame.tolist() == [i / 16 for i in range(16)]


def test_arguments_and_wrappers():
    name = "tests.gym_envs:Odd-v0"
    gym = {"kwargs": {"all": {"scale": 0.25}}, "wrappers": []}
    assert odd("Odd", gym=gym).make_game(name).reset(0).frame.tolist() == [0.25] * 4
    gym["kwargs"][name] = {"scale": 0.5}
    assert odd("Odd", gym=gym).make_game(name).reset(0).frame.tolist() == [0.5] * 4
    wrapped = odd("FloatImage", gym={"wrappers": ["tests.gym_envs:flattened"]})
    assert wrapped.spaces.frame_shape == (192,)
    for gym, says in [
        ({"wrappers": ["tests.gym_envs:no_environment"]}, "returns a int, not an environment"),
        ({"wrappers": ["tests.gym_envs:nothing"]}, "env.gym.wrappers='tests.gym_envs:nothing': cannot be imported"),
        ({"kwargs": {"Other-v0": {}}}, "'Other-v0' is none of env.levels"),
        ({"kwargs": {"all": {"unknown": 1}}}, "cannot make .*unknown"),
    ]:
        with pytest.raises(UserError, match=says):
            odd("Odd", gym=gym)
    with pytest.raises(UserError, match=r"env.gym belongs to env.suite=gym, not to 'tiny'"):
        build("x", {"env": {"suite": "tiny", "gym": {"wrappers": ["a:b"]}}})


@pytest.mark.slow
def test_environments_in_the_working_folder_are_found(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from tests.gym_envs import Odd\nimport gymnasium\ngymnasium.register('My-v0', Odd)\n"
    )
    command = [
        sys.executable, "-P", "-c",
        "from impala_mi.config import EnvConfig; from impala_mi.envs.suites import make_suite; "
        "make_suite(EnvConfig(suite='gym', levels=['mine:My-v0'])).check(); print('found')",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == "found\n", done.stderr
