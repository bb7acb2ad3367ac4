import functools
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from impala_mi.analysis.play import play
from impala_mi.analysis.recording import note_instructions
from impala_mi.config import EnvConfig
from impala_mi.envs import faults
from impala_mi.envs.base import BatchOutcome, LevelBroken, Suite
from impala_mi.envs.batch import BatchedGame
from impala_mi.envs.conformance import check_game
from impala_mi.envs.vector import VectorEnv
from impala_mi.errors import UserError
from impala_mi.host.backoff import backoff
from impala_mi.types import AgentInput, transitions_buffer
from tests.games import LENGTHS, CountingBatch, CountingGame, counting, counting_batches

LEVELS = ["terminates", "truncates", "no_final"]


def batches(**changes) -> Suite:
    return replace(counting_batches(EnvConfig(levels=LEVELS)), **changes)


def vector(suite: Suite, width: int = 7) -> tuple[VectorEnv, AgentInput]:
    levels = [i % len(suite.levels) for i in range(width)]
    out = AgentInput(*(a[0] for a in transitions_buffer(suite.spaces, 1, width, 4).inputs))
    return VectorEnv(suite, levels, suite.assign_seeds([1], levels), 4), out


@pytest.mark.parametrize("level", LEVELS)
def test_the_double_conforms(level):
    check_game(batches(), level)


def test_a_batch_plays_as_games_do_but_for_later_seeds():
    """Everything that the rollout reads is the same; only the seeds of later episodes are the engine's."""

    def run(suite: Suite):
        v, out = vector(suite)
        v.reset(out)
        rows, rng = [], np.random.default_rng(0)
        for _ in range(23):
            result = v.step(rng.integers(0, 3, 7), out)
            finals = [(e, o.frame[1:].tolist(), o.instruction) for e, o in result.final_observations]
            inputs = [out.frame[:, 1:], *out[1:]]
            rows.append(([x.copy() for x in inputs], result.reward, result.terminated, result.truncated))
            rows[-1] += result.episodes, finals
        stats = v.take_stats()
        assert v.take_stats() == v.take_faults() == []
        v.interrupt()
        v.close()
        return rows, sum(len(s.reset_s) for s in stats)

    scale = tuple(replace(level, reward_scale=0.5) for level in batches().levels)
    for terminal in (False, True):
        changes = {"levels": scale, "truncation_is_terminal": terminal}
        (expected, expected_resets), (played, resets) = (
            run(replace(suite, **changes)) for suite in (counting(EnvConfig(levels=LEVELS)), batches())
        )
        assert resets == expected_resets == 7 + sum(len(row[4]) for row in played)
        assert sum(len(row[5]) for row in played) == (0 if terminal else 2 * (23 // LENGTHS["truncates"]))
        for a, b in zip(expected, played, strict=True):
            for x, y in zip(a[0], b[0], strict=True):
                np.testing.assert_array_equal(x, y)
            for x, y in zip(a[1:], b[1:], strict=True):
                assert np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y


def test_environments_keep_their_seeds_and_do_not_repeat_one_another():
    def seeds():
        v, out = vector(batches())
        v.reset(out)
        drawn = [[s] for s in out.frame[:, 0].tolist()]
        for _ in range(30):
            v.step(np.zeros(7, np.int64), out)
            for e in np.flatnonzero(out.first):
                drawn[e].append(out.frame[e, 0].item())
        v.close()
        return drawn

    drawn = seeds()
    assert drawn == seeds()
    everything = list(itertools.chain(*drawn))
    assert len(set(everything)) == len(everything) > 40


def test_resting_environments_do_not_step_and_ended_ones_wait():
    v, out = vector(batches())
    v.reset(out)
    CountingGame.log.clear()
    active = np.array([True, True, False, True, False, False, False])
    for t in range(3):
        result = v.step(np.zeros(7, np.int64), out, active, auto_reset=False)
        assert out.first.tolist() == [t == 2, False, False, t == 2, False, False, False]
        assert out.frame[:, 1].tolist() == [min(t + 1, 2), t + 1, 0, min(t + 1, 2), 0, 0, 0]  # the end is not shown
    assert [e for e, _ in result.episodes] == [0, 3]
    assert len(CountingGame.log) == 9
    assert {entry[0] for entry in CountingGame.log} == {"step"}
    v.reset(out, {3: 77})
    assert (out.frame[3].tolist(), CountingGame.log[-1]) == ([77, 0, 0], ("reset", "terminates", 77))
    active[0] = False
    v.step(np.zeros(7, np.int64), out, active, auto_reset=False)
    assert out.frame[:, 1].tolist() == [2, 3, 0, 1, 0, 0, 0]
    v.close()


def test_all_levels_begin_before_the_first_is_waited_for():
    calls = []

    class Noted(CountingBatch):
        def begin_step(self, games, actions):
            calls.append("begin")
            super().begin_step(games, actions)

        def finish(self):
            calls.append("finish")
            return super().finish()

    v, out = vector(batches(make_batch=Noted))
    v.reset(out)
    calls.clear()
    v.begin(np.zeros(7, np.int64), out)
    assert calls == ["begin"] * 3
    v.finish()
    assert calls == ["begin"] * 3 + ["finish"] * 3
    v.close()


def test_everything_is_closed_where_one_batch_cannot_start_or_close():
    made = []

    class Stubborn(CountingBatch):
        def close(self):
            super().close()
            raise RuntimeError("will not close")

    def make(level: str, size: int) -> CountingBatch:
        if level == "no_final":
            raise RuntimeError("no more")
        made.append(CountingBatch(level, size))
        return made[-1]

    with pytest.raises(RuntimeError, match="no more"):
        vector(batches(make_batch=make))
    assert all(game.closed for batch in made for game in batch.games)
    assert len(made) == 2
    v, _ = vector(batches(make_batch=Stubborn))
    closed = [batch for level in v._players._levels for batch in level.batch.games]
    with pytest.raises(RuntimeError, match="will not close"):
        v.close()
    assert all(game.closed for game in closed)


def test_evaluation_plays_the_episodes_of_its_seeds_whatever_the_columns():
    def played(columns: int):
        CountingGame.log.clear()
        episodes = play(None, batches(), 6, 1, columns=columns)
        assert [[e.length for e in own] for own in episodes] == [[LENGTHS[name]] * 6 for name in LEVELS]
        return sorted(entry[1:] for entry in CountingGame.log if entry[0] == "reset")

    assert played(2) == played(4)
    assert len(played(2)) == 18


def test_instructions_are_noted_in_recordings_of_batches():
    noted, words = note_instructions(batches(), 4)
    play(None, noted, 2, 1)
    assert set(words.values()) == {f"word{t}" for t in range(5)}


class Broken(CountingBatch):
    fault = ""

    def begin_reset(self, games, seeds):
        if self.fault == "seed" and seeds is not None:
            seeds = [seed + int(game) for seed, game in zip(seeds, games, strict=True)]
        super().begin_reset(games, seeds)

    def begin_step(self, games, actions):
        if self.fault == "rest" and len(games) < len(self.games):
            self.games[0].time += 1
        super().begin_step(games, actions)

    def finish(self) -> BatchOutcome:
        outcome = super().finish()
        if self.fault == "shape":
            return outcome._replace(frame=outcome.frame[:, :2])
        if self.fault == "both" and outcome.terminated.any():
            return outcome._replace(truncated=outcome.terminated)
        if self.fault == "words":
            return outcome._replace(instructions=["a"])
        if self.fault == "alone" and len(self.games) > 1:
            outcome.reward[:] += 1
        return outcome


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("seed", "equal seeds"), ("rest", "differ"), ("shape", "shape"), ("both", "both terminated"),
        ("words", "number of instructions"), ("alone", "unlike a game alone"),
    ],
)  # fmt: skip
def test_the_conformance_check_finds(fault, says):
    broken = type("Faulty", (Broken,), {"fault": fault})
    game = functools.partial(BatchedGame, CountingBatch)
    with pytest.raises(UserError, match=says):
        check_game(batches(make_game=game, make_batch=broken), "terminates")


def test_the_conformance_check_finds_a_batch_that_forgets_its_seeds():
    class Forgets(CountingBatch):
        started = False

        def begin_reset(self, games, seeds):
            if seeds is not None and self.started and len(self.games) > 1:
                seeds = [seed + 1 for seed in seeds]
            self.started = True
            super().begin_reset(games, seeds)

    with pytest.raises(UserError, match="forgets its seeds"):
        check_game(batches(make_batch=Forgets), "truncates")


class Failing(CountingBatch):
    """Fails as `how` says at the call of `at`, counted over all batches of the level `level`."""

    how, at, level, calls = "", range(0), "terminates", 0

    def __init__(self, level: str, size: int) -> None:
        super().__init__(level, size)
        self.name, self.starts = level, False

    def fails(self, when: str) -> bool:
        return self.name == self.level and self.how.startswith(when) and type(self).calls in self.at

    def begin_reset(self, games, seeds):
        self.starts = True
        if self.name == self.level and self.how.startswith("reset"):
            type(self).calls += 1
            if self.fails("reset"):
                raise KeyError("no map")
        super().begin_reset(games, seeds)

    def begin_step(self, games, actions):
        self.starts = False
        if self.name == self.level and not self.how.startswith("reset"):
            type(self).calls += 1
            if self.fails("begin"):
                raise KeyError("engine")
        super().begin_step(games, actions)

    def finish(self) -> BatchOutcome:
        outcome = super().finish()
        if self.starts or not self.fails("finish"):
            return outcome
        if self.how == "finish raises":
            raise RuntimeError("engine stopped")
        if self.how == "finish shape":
            return outcome._replace(frame=outcome.frame[:, :2])
        if self.how == "finish dtype":
            return outcome._replace(frame=outcome.frame.astype(np.float64))
        if self.how == "finish flags":
            return outcome._replace(terminated=outcome.terminated.astype(np.int64))
        (outcome.frame[1] if self.how == "finish frame" else outcome.reward)[1:2] = np.nan
        return outcome


def failing(how: str, at, width: int = 7, give_up="first", **changes):
    kind = type("FailingNow", (Failing,), {"how": how, "at": at, "calls": 0, **changes})
    suite = batches(make_batch=kind)
    levels = [i % len(LEVELS) for i in range(width)]
    out = AgentInput(*(a[0] for a in transitions_buffer(suite.spaces, 1, width, 4).inputs))
    return VectorEnv(suite, levels, suite.assign_seeds([1], levels), 4, give_up), out


@pytest.fixture
def slept(monkeypatch):
    """Seconds of the pauses, which are left out."""
    waits = []
    monkeypatch.setattr(faults, "backoff", lambda n, longest: waits.append(backoff(n, longest)) or 0.0)
    return waits


@pytest.mark.parametrize(
    ("how", "game", "says"),
    [
        ("begin", 0, "KeyError: 'engine'"), ("finish raises", 0, "RuntimeError: engine stopped"),
        ("finish shape", 0, r"observations of shape \[3, 2\]"), ("finish dtype", 0, "dtype float64"),
        ("finish flags", 0, "terminated of shape"), ("finish frame", 1, "an observation with nan"),
        ("finish reward", 1, "a reward of nan, which is not finite"),
    ],
)  # fmt: skip
def test_a_fault_costs_the_episodes_of_its_level_alone(how, game, says):
    v, out = failing(how, {2})
    v.reset(out)
    first, actions = out.frame.copy(), np.zeros(7, np.int64)
    v.step(actions, out)
    before = out.frame.copy()
    result = v.step(actions, out)
    hit = [0, 3, 6]  # the level's environments
    assert np.flatnonzero(result.truncated).tolist() == np.flatnonzero(out.first).tolist() == hit
    assert not result.terminated.any()
    assert not result.reward[hit].any()
    assert result.episodes == []  # lost episodes do not count
    assert [e for e, _ in result.final_observations] == hit
    for e, final in result.final_observations:
        np.testing.assert_array_equal(final.frame, before[e])
        assert final.instruction == "word1"
    assert out.frame[hit, 1].tolist() == [0, 0, 0]
    assert not set(out.frame[hit, 0]) & set(first[:, 0])  # the next episodes have other seeds
    assert out.frame[[1, 2, 4, 5], 1].tolist() == [2, 2, 2, 2]
    [(level, fault)] = v.take_faults()
    assert (level, fault.kind, fault.seed % 10_000_000) == (0, "error", int(first[hit[game], 0]))
    assert f"level 'terminates', seed {fault.seed}, step 1, batch of 3: " in fault.message
    assert re.search(says, fault.message)
    for _ in range(3):
        result = v.step(actions, out)
    assert {e: (i.return_, i.length) for e, i in result.episodes if e in hit} == dict.fromkeys(hit, (60.0, 3))
    v.close()


def test_a_fault_of_a_reset_keeps_the_episodes_that_had_ended():
    v, out = failing("reset", {2})
    v.reset(out)
    actions = np.zeros(7, np.int64)
    for _ in range(3):
        result = v.step(actions, out)
    assert [(e, episode.return_) for e, episode in result.episodes] == [(0, 60.0), (3, 60.0), (6, 60.0)]
    assert (result.terminated[[0, 3, 6]].all(), result.truncated.any()) == (True, False)
    assert result.reward[[0, 3, 6]].tolist() == [30.0] * 3
    assert out.frame[[0, 3, 6], 1].tolist() == [0, 0, 0]
    assert len(v.take_faults()) == 1
    v.close()


def test_a_fault_of_one_environments_reset_ends_the_others_episodes_with_the_next_step():
    v, out = failing("reset", {2})
    v.reset(out)
    actions = np.zeros(7, np.int64)
    v.step(actions, out)
    v.reset(out, {3: 77})
    assert out.frame[[0, 3, 6], 1].tolist() == [1, 0, 1]  # what is lost is still shown
    assert out.frame[3, 0] != 77  # the failed seed is not tried again
    before = out.frame.copy()
    active = np.ones(7, bool)
    active[6] = False
    result = v.step(actions, out, active)
    assert np.flatnonzero(result.truncated).tolist() == [0]
    np.testing.assert_array_equal(result.final_observations[0][1].frame, before[0])
    assert out.frame[[0, 3, 6], 1].tolist() == [0, 1, 1]
    result = v.step(actions, out)
    assert np.flatnonzero(result.truncated).tolist() == [6]
    assert out.frame[[0, 3, 6], 1].tolist() == [1, 2, 0]
    v.close()


def test_games_that_wait_for_a_reset_lose_nothing_to_a_fault():
    v, out = failing("begin", {4})
    v.reset(out)
    actions, active = np.zeros(7, np.int64), np.ones(7, bool)
    for _ in range(3):
        v.step(actions, out, active, auto_reset=False)
    v.reset(out, {0: 5})
    active[[3, 6]] = False
    result = v.step(actions, out, active, auto_reset=False)
    assert np.flatnonzero(result.truncated[[0, 3, 6]]).tolist() == [0]
    v.reset(out, {3: 9})
    assert out.frame[3].tolist() == [9, 0, 0]
    v.close()


@pytest.mark.parametrize("give_up", ["first", "always", "never"])
def test_a_batch_that_keeps_failing_is_abandoned_unless_its_level_has_worked_elsewhere(give_up, slept):
    v, out = failing("begin", range(2, 60), give_up=give_up)
    v.reset(out)

    def go() -> None:
        for _ in range(70):
            v.step(np.zeros(7, np.int64), out)

    if give_up == "never":
        go()
        assert len(v.take_faults()) == 58
    else:
        with pytest.raises(LevelBroken, match="failed 10 times in a row: level 'terminates'") as e:
            go()
        assert e.value.level == 0
        assert slept == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    v.close()


def test_a_batch_that_fails_in_every_episode_is_abandoned_though_its_level_worked(slept):
    """Ten errors without the end of an episode are no accidents, even after good ones."""
    v, out = failing("begin", range(7, 100, 2))
    v.reset(out)
    with pytest.raises(LevelBroken, match="failed 10 times before an episode ended"):
        [v.step(np.zeros(7, np.int64), out) for _ in range(60)]
    v.close()


def test_errors_of_training_in_a_batch_are_no_faults():
    class Licence(CountingBatch):
        def begin_step(self, games, actions):
            raise UserError("no licence")

    v, out = vector(batches(make_batch=Licence))
    v.reset(out)
    with pytest.raises(UserError, match="no licence"):
        v.step(np.zeros(7, np.int64), out)
    v.close()


def test_an_evaluation_leaves_out_a_batch_that_does_not_work(slept):
    broken = []
    kind = type("FailingNow", (Failing,), {"how": "begin", "at": range(1000), "calls": 0})
    made = batches(make_batch=kind)
    episodes = play(None, made, 3, 1, on_broken=lambda level, why: broken.append((level, why)))
    assert [len(own) for own in episodes] == [0, 3, 3]
    assert broken[0][0] == 0
    assert "KeyError: 'engine'" in broken[0][1]
