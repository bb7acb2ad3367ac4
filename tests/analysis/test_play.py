import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.analysis.evaluation import draw_scores, evaluate, score_episodes, summarise
from impala_mi.analysis.play import play, waves
from impala_mi.config import EnvConfig
from impala_mi.envs import base
from impala_mi.envs.base import Level, Suite
from impala_mi.envs.suites import make_suite
from impala_mi.nn.agent import Agent
from impala_mi.types import Episode
from tests.envs.test_base import Faulting
from tests.games import CountingGame, counting
from tests.tiny import tiny_config


class Lottery(CountingGame):
    """Short and long episodes in turn; the return is the length."""

    def reset(self, seed):
        observation = super().reset(seed)
        self.length = 2 if seed % 2 else 40
        return observation

    def step(self, action):
        outcome = super().step(action)
        return outcome._replace(reward=1.0, terminated=self.time == self.length, truncated=False)


@pytest.mark.parametrize("episodes", [1, 5, 20, 150])
def test_the_first_started_are_the_ones_that_count(suite, episodes):
    """Whichever ends first does not matter: short episodes are not favoured."""
    made = Suite("lottery", (Level("long"),), suite.spaces.__class__((3,), "float32", 3, 1, True), ("a", "b", "c"),
                 Lottery)  # fmt: skip
    CountingGame.log.clear()
    played = play(None, made, episodes, 3)[0]
    assert len(played) == episodes
    started = [entry[2] for entry in CountingGame.log if entry[0] == "reset"]
    assert len(started) == episodes  # none is begun that would not count
    assert sum(e.length for e in played) == len([e for e in CountingGame.log if e[0] == "step"])


@given(st.integers(1, 40), st.integers(1, 600), st.integers(1, 100))
def test_waves_play_every_level_once_within_the_bound_and_in_full_rounds(levels, episodes, most):
    assignment = waves(levels, episodes, most)
    columns = Counter(k for wave in assignment for k in wave)
    assert set(columns) == set(range(levels))
    assert len(set(columns.values())) == 1
    assert all(len(wave) <= most for wave in assignment)
    rounds = -(-episodes // columns[0])
    assert rounds == -(-episodes // most)  # no more than with all columns on one level
    assert all(len({w for w, wave in enumerate(assignment) if k in wave}) == 1 for k in range(levels))


@pytest.mark.slow
def test_a_lost_episode_is_replaced_and_reported(suite):
    made = Suite("f", (Level("terminates"),), suite.spaces.__class__((3,), "float32", 3, 1, True), ("a", "b", "c"),
                 lambda level: Faulting(level, {2, 5}))  # fmt: skip
    faults = []
    (played,) = play(None, made, 3, 3, on_fault=lambda level, fault: faults.append((level, fault.kind)))
    assert [e.length for e in played] == [3, 3, 3]
    assert faults == [(0, "crash")] * 6  # two in each of three games


def test_a_fault_that_costs_no_episode_is_none(monkeypatch):
    monkeypatch.setattr(base, "BOUNDS_STEPS", 2)
    suite = make_suite(EnvConfig(suite="gym", levels=["tests.gym_envs:LaterOutside-v0"]))
    faults = []
    (played,) = play(None, suite, 3, 3, on_fault=lambda level, fault: faults.append(fault))
    assert [e.length for e in played] == [20, 20, 20]
    assert faults == []


def test_an_agent_plays_every_level_the_same_way_under_a_seed(config, suite):
    agent = Agent(config.agent, suite.spaces).eval()
    a, b = (play(agent, suite, 4, 7) for _ in range(2))
    assert a == b
    assert [len(x) for x in a] == [4] * 5
    assert play(agent, suite, 4, 8) != a


def test_an_episode_without_end_is_cut_off_and_counted():
    made = counting(EnvConfig(suite="x", levels=["long", "terminates"]))
    long, short = play(None, made, 3, 3, max_steps=4, columns=2)
    assert [e.length for e in long] == [4] * 3
    assert all(100 <= e.return_ <= 108 for e in long)  # 10 (1 + 2 + 3 + 4), and four actions
    assert [e.length for e in short] == [3] * 3


def test_the_limit_of_time_leaves_what_has_ended_and_there_is_word_meanwhile(monkeypatch):
    from impala_mi.analysis import play as module

    monkeypatch.setattr(module, "PROGRESS_S", 0.02)
    made, heard = counting(EnvConfig(suite="x", levels=["terminates", "long"])), []
    start = time.monotonic()
    short, long = play(None, made, 2, 3, columns=2, max_time_s=0.3, on_progress=lambda *word: heard.append(word))
    assert time.monotonic() - start < 5
    assert len(short) == 2
    assert len(long) <= 2
    assert heard
    assert heard[-1][1] > 3


def test_no_wave_begins_after_the_limit_of_time():
    made, opened = counting(EnvConfig(suite="x", levels=["long", "terminates", "truncates"])), []

    def make(level):
        opened.append(level)
        return CountingGame(level)

    played = play(None, replace(made, make_game=make), 2, 3, columns=2, max_time_s=0.1)
    assert played == [[], [], []]
    assert opened == ["long", "long"]


def test_a_word_comes_only_while_no_episode_ends(monkeypatch):
    from impala_mi.analysis import play as module

    monkeypatch.setattr(module, "PROGRESS_S", 0.2)
    made, heard = counting(EnvConfig(suite="x", levels=["terminates"])), []
    on_episode = lambda episode: time.sleep(0.01)  # noqa: E731
    play(None, made, 40, 3, columns=1, on_progress=lambda *word: heard.append(word), on_episode=on_episode)
    assert heard == []


def test_evaluations_that_a_limit_changed_say_so(config, suite):
    made = counting(EnvConfig(suite="x", levels=["long", "terminates"]))
    trained = SimpleNamespace(network=None, config=config)

    def limits(**changes):
        result = evaluate(trained, made, 2, 1, **changes)
        return {key: result.as_dict()[key] for key in ("cut_off", "limited")}

    assert limits(max_steps=10, against_random=True) == {"cut_off": 4, "limited": True}
    assert limits(max_steps=10_001) == {"cut_off": 0, "limited": False}
    assert limits(max_time_s=0.1) == {"cut_off": 0, "limited": True}


def test_without_task_ids_the_level_is_hidden(suite):
    agent = Agent(tiny_config("agent.head=mi_task").agent, suite.spaces).eval()
    with pytest.raises(ValueError, match="cannot act without"):
        play(agent, suite, 1, 1, tell_task=False)


def test_summary_has_the_standard_error_and_the_bootstrap_interval():
    s = summarise([Episode(0, r, 2) for r in (1.0, 2.0, 3.0)])
    assert (s.mean, s.episodes, s.length) == (2.0, 3, 2.0)
    assert s.stderr == pytest.approx(1 / 3**0.5)
    assert (s.low, s.high) == (1.0, 3.0)
    assert summarise([Episode(0, 1.0, 2)]).high == float("inf")
    alike = summarise([Episode(0, 4.0, 2)] * 5)
    assert (alike.stderr, alike.low, alike.high) == (0.0, 4.0, 4.0)


def test_clearly_better_means_intervals_apart():
    levels = (Level("a", 0, 10),)

    def result(returns, random):
        agent, other = ([Episode(0, r, 1) for r in x] for x in (returns, random))
        return score_episodes(levels, [agent], [other])

    assert result([9.0, 10.0, 11.0], [0.0, 1.0, 2.0]).levels[0].clearly_better
    assert not result([1.0, 10.0, 11.0], [0.0, 1.0, 2.0]).levels[0].clearly_better
    assert result([20.0, 20.0], [0.0, 1.0]).capped_mean == 100.0
    assert score_episodes(levels, [[Episode(0, 1.0, 1)]], None).levels[0].clearly_better is None


def episodes(returns):
    return [Episode(0, float(r), 1) for r in returns]


def test_the_capped_mean_averages_first_caps_second_and_has_no_floor():
    levels = [Level("a", 0.0, 10.0), Level("b", 0.0, 10.0), Level("c", 0.0, 10.0)]
    result = score_episodes(
        levels, [episodes([0, 30]), episodes([-10, -30]), episodes([5, 5])], None, Counter({1: 2})
    )
    assert [row.score for row in result.levels] == [150.0, -200.0, 50.0]
    assert [row.capped for row in result.levels] == [100.0, -200.0, 50.0]
    assert result.capped_mean == pytest.approx((100 - 200 + 50) / 3)
    assert [row.faults for row in result.levels] == [0, 2, 0]
    assert score_episodes(levels[:1], [episodes([1])], None).capped_interval is None
    assert score_episodes([Level("a")], [episodes([1, 2])], None).capped_mean is None


@pytest.mark.slow
def test_intervals_hold_what_they_say(monkeypatch):
    """Of 200 samples, about 95 % of the intervals hold the true mean, of a level and of the capped score."""
    monkeypatch.setattr("impala_mi.analysis.stats.RESAMPLES", 1000)
    rng = np.random.default_rng(0)
    levels = [Level("a", 0.0, 10.0), Level("b", 0.0, 10.0)]
    inside = np.zeros((200, 2), bool)
    for i in range(200):
        result = score_episodes(levels, [episodes(rng.exponential(3, 60)), episodes(rng.normal(6, 2, 60))], None)
        summary = result.levels[0].agent
        inside[i] = summary.low <= 3 <= summary.high, result.capped_interval[0] <= 45 <= result.capped_interval[1]
    assert ((inside.mean(axis=0) > 0.9) & (inside.mean(axis=0) < 0.99)).all()


def test_the_bar_chart_has_a_bar_for_each_level_that_has_a_score(tmp_path):
    levels = [Level("good", 0.0, 1.0), Level("bad", 0.0, 1.0), Level("unknown")]
    result = score_episodes(levels, [episodes([9, 8]), episodes([-9, -9]), episodes([1])], None)
    draw_scores(result, "title", tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
