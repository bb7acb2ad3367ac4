import threading

import numpy as np
import pytest

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.errors import TrainingError
from impala_mi.types import AgentInput, transitions_buffer
from tests.games import CountingGame, counting


def vector(suite: Suite, width: int = 6) -> tuple[VectorEnv, AgentInput]:
    levels = [i % len(suite.levels) for i in range(width)]
    out = AgentInput(*(a[0] for a in transitions_buffer(suite.spaces, 1, width, 4).inputs))
    return VectorEnv(suite, levels, suite.assign_seeds([1], levels), 4), out


def suite(**changes) -> Suite:
    base = counting(EnvConfig(levels=["terminates", "truncates"]))
    return Suite(**{**base.__dict__, **changes})


def test_threads_change_nothing():
    def run(threads: int):
        v, out = vector(suite(step_threads=threads))
        v.reset(out)
        rows = []
        for t in range(12):
            result = v.step(np.arange(6) % 3 * (t % 2), out)
            rows.append((out.frame.copy(), out.tokens.copy(), result.reward, result.terminated, result.episodes))
        v.close()
        return rows

    for one, four in zip(run(1), run(4), strict=True):
        for a, b in zip(one, four, strict=True):
            np.testing.assert_array_equal(np.array(a, object), np.array(b, object))


def test_rewards_are_scaled_and_returns_are_not():
    base = suite()
    levels = tuple(type(level)(**{**level.__dict__, "reward_scale": 0.5}) for level in base.levels)
    v, out = vector(suite(levels=levels), 2)
    v.reset(out)
    result = None
    for _ in range(3):
        result = v.step(np.ones(2, np.int64), out)
    assert result.reward.tolist() == [15.5, 15.5]
    assert result.episodes[0][1].return_ == 63.0
    assert out.last_reward.tolist() == [0.0, 15.5]  # zero where an episode starts
    v.close()


def test_resting_columns_do_not_step():
    v, out = vector(suite(), 4)
    v.reset(out)
    CountingGame.log.clear()
    v.step(np.zeros(4, np.int64), out, np.array([True, False, True, False]))
    assert len(CountingGame.log) == 2
    v.close()


def test_an_error_in_a_thread_reaches_the_caller():
    class Breaks(CountingGame):
        def step(self, action):
            raise TrainingError(f"in {threading.current_thread().name}")

    v, out = vector(suite(step_threads=3, make_game=Breaks))
    v.reset(out)
    with pytest.raises(TrainingError, match="in step games"):
        v.step(np.zeros(6, np.int64), out)
    v.close()


def test_everything_is_closed_where_one_game_cannot_start():
    made = []

    def make(level: str) -> CountingGame:
        if len(made) == 3:
            raise RuntimeError("no more")
        made.append(CountingGame(level))
        return made[-1]

    with pytest.raises(RuntimeError, match="no more"):
        vector(suite(make_game=make))
    assert all(game.closed for game in made)
