import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest

from impala_mi.analysis.play import play
from impala_mi.analysis.recording import note_instructions
from impala_mi.config import EnvConfig
from impala_mi.envs.base import BatchOutcome, Suite
from impala_mi.envs.batch import BatchedGame
from impala_mi.envs.conformance import check_game
from impala_mi.envs.vector import VectorEnv
from impala_mi.errors import UserError
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
