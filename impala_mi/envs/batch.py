"""Engines that step many games of one level together: their automatic resets, and a game of one of them.

The author of such a suite writes a `GameBatch` and names its constructor in `Suite.make_batch`; `Suite.make_game`
is `functools.partial(BatchedGame, make_batch)`.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from impala_mi.envs.base import BatchOutcome, Game, GameBatch, MakeBatch, Observation, Outcome, StepResult, Suite
from impala_mi.envs.faults import FORGIVE_AFTER_STEPS, FaultLog, GiveUp
from impala_mi.envs.outcome_checks import Breach, OutcomeChecks
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.types import AgentInput, EnvStats, Episode, Fault

_ONE = np.zeros(1, np.int64)
"""Index [1] of the game of a batch of one."""


class BatchedGame(Game):
    """One game of an engine of batches, for programs that play games one by one.

    Args:
        make_batch: makes the batch.
        level: name of the level.
    """

    def __init__(self, make_batch: MakeBatch, level: str) -> None:
        self._batch = make_batch(level, 1)
        self._instruction = ""

    def reset(self, seed: int) -> Observation:
        """Start the episode of a seed."""
        self._batch.begin_reset(_ONE, [seed])
        return self._observe(self._batch.finish())

    def step(self, action: Any) -> Outcome:
        """Act."""
        self._batch.begin_step(_ONE, [action])
        outcome = self._batch.finish()
        return Outcome(
            self._observe(outcome),
            float(outcome.reward[0]),
            bool(outcome.terminated[0]),
            bool(outcome.truncated[0]),
        )

    def close(self) -> None:
        """Close the batch."""
        self._batch.close()

    def _observe(self, outcome: BatchOutcome) -> Observation:
        if outcome.instructions is not None:
            self._instruction = outcome.instructions[0]
        return Observation(outcome.frame[0].copy(), self._instruction)


class _LevelBatch:
    """Games of one level in an actor, and their unfinished episodes.

    Args:
        level: index of the level.
        columns: environment [n] of each game.
        make: makes the batch, which is closed and made anew after a fault.
        rules: checks of what the games show.
        give_up: see `FaultLog`.
    """

    def __init__(
        self,
        level: int,
        columns: np.ndarray,
        make: Callable[[], GameBatch],
        rules: OutcomeChecks,
        give_up: GiveUp,
    ) -> None:
        self.level, self.columns = level, columns
        self.all_games = np.arange(len(columns))
        self.playing = self.all_games[:0]  # games [k] of the step in progress
        self.returns = np.zeros(len(columns))  # [n] sums of the unscaled rewards
        self.lengths = np.zeros(len(columns), np.int64)  # [n] agent steps
        self.running = np.zeros(len(columns), bool)  # [n] an episode has begun and not ended
        self.lost = np.zeros(len(columns), bool)  # [n] the episode was lost in a reset; the next step reports it
        self.finals: dict[int, Observation] = {}  # last observations of the lost episodes, by game
        self.beginnings: BatchOutcome | None = None  # first observations of all games after the last restart
        self.stepped = False  # the step of the call in progress succeeded
        self.stats, self.faults = EnvStats(level), FaultLog(level, give_up)
        self._make, self._rules = make, rules
        self.batch: GameBatch | None = make()
        self._seeds = np.zeros(len(columns), np.int64)  # [n] seeds of the last resets that had any
        self._episodes = np.zeros(len(columns), np.int64)  # [n] episodes since
        self._called = self.all_games  # games [k] of the call in progress
        self._error: Exception | None = None

    def begin_reset(self, games: np.ndarray, seeds: Sequence[int] | None) -> None:
        """Begin to start episodes of games [k]; `finish_reset` raises the errors."""
        if seeds is None:
            self._episodes[games] += 1
        else:
            self._seeds[games], self._episodes[games] = seeds, 0
        self._begin(games, lambda batch: batch.begin_reset(games, seeds))

    def begin_step(self, actions: Sequence[Any]) -> None:
        """Begin to act in the games that play [k]; `finish_step` raises the errors."""
        games = self.playing
        self._begin(games, lambda batch: batch.begin_step(games, actions))

    def _begin(self, games: np.ndarray, call: Callable[[GameBatch], None]) -> None:
        assert self.batch is not None
        self._called, self._error = games, None
        try:
            call(self.batch)
        except Exception as e:  # an engine can raise anything
            self._error = e

    def _finish(self) -> BatchOutcome:
        assert self.batch is not None
        if self._error is not None:
            raise self._error
        outcome = self.batch.finish()
        self._rules.check_batch(outcome.frame, outcome.instructions, len(self._called))
        return outcome

    def finish_reset(self) -> BatchOutcome:
        """Wait for a reset; raises what the engine raises, and `ValueError` for what it may not show."""
        outcome = self._finish()
        games = self._called
        self.returns[games], self.lengths[games], self.running[games], self.lost[games] = 0, 0, True, False
        for game in games.tolist() if self.finals else ():
            self.finals.pop(game, None)
        return outcome

    def finish_step(self) -> BatchOutcome:
        """Wait for a step; raises what the engine raises, and `ValueError` for what it may not show."""
        outcome = self._finish()
        self._rules.check_batch_step(outcome.reward, outcome.terminated, outcome.truncated, len(self._called))
        return outcome

    def restart(self, error: Exception, draw: Callable[[int], int]) -> BatchOutcome:
        """Make the batch anew after an error, until all n games have started episodes; returns their beginnings.

        `draw` takes the next seed of an environment. Raises `LevelBroken` if the level is abandoned, and errors
        that are no faults.
        """
        while True:
            self._add_fault(error)
            batch, self.batch = self.batch, None
            if batch is not None:
                with suppress(Exception):  # it is broken, and may be in any state
                    batch.close()
            self.faults.check_interrupt()
            try:
                self.batch = self._make()
                self.begin_reset(self.all_games, [draw(e) for e in self.columns.tolist()])
                return self.finish_reset()
            except Exception as e:  # an engine can raise anything
                error = e

    def _add_fault(self, error: Exception) -> None:
        game = int(self._called[error.game if isinstance(error, Breach) else 0])
        seed = int(self._seeds[game])
        place = f"level {self._rules.level!r}, seed {seed}, step {self.lengths[game]}"
        if self._episodes[game]:
            place += f" of episode {self._episodes[game] + 1} of the seed"
        self.faults.add(error, seed, f"{place}, batch of {len(self.columns)}")

    def forgive(self, episode_ended: bool) -> None:
        """Forgive faults after an episode's end, or a long stretch of one."""
        if episode_ended or self.lengths.max() >= FORGIVE_AFTER_STEPS:
            self.faults.forgive(episode_ended)

    def take_stats(self) -> EnvStats:
        """Reset times and faults since the last call."""
        stats, self.stats = self.stats, EnvStats(self.level)
        stats.faults.extend(self.faults.take())
        return stats

    def close(self) -> None:
        """Close the batch."""
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.close()


class _Reset(NamedTuple):
    """A reset in progress of games [k] of a level."""

    level: _LevelBatch
    games: np.ndarray
    start: float
    """Time at which it was begun, in seconds."""

    @classmethod
    def begin(cls, level: _LevelBatch, games: np.ndarray, seeds: Sequence[int] | None) -> "_Reset":
        """Begin the reset."""
        start = time.monotonic()
        level.begin_reset(games, seeds)
        return cls(level, games, start)


class _Call(NamedTuple):
    """A step or reset in progress."""

    out: AgentInput
    resets: list[_Reset]
    result: StepResult | None = None
    """Result of the step; None for a reset."""
    auto_reset: bool = True
    active: np.ndarray | None = None
    """Environments [E] that act; None for all."""

    def acting(self, columns: np.ndarray) -> np.ndarray:
        """Whether environments [n] act, [n]."""
        return np.ones(len(columns), bool) if self.active is None else self.active[columns]


class BatchPlayers:
    """Batches of an actor, one per level, with same-step resets: where an episode ends the next one starts.

    All levels begin a step before the first is waited for, so their engines work at the same time. Episodes that
    end are followed by resets of their games alone.

    An exception of an engine, or a result that breaks the suite's rules, is a fault. The episodes of all games of
    that level are truncated at their last observations and do not count for the scores; the level's batch is made
    anew and goes on with the next seeds of its environments. One fault is reported, whatever the number of games.

    Args:
        suite: names the levels.
        make_batch: makes a batch.
        levels: level index of each environment [E].
        seeds: episode seeds of each environment [E]; they are drawn for its first episode and after faults.
        give_up: see `FaultLog`.
        set_instruction: called with an environment and the instruction of each new episode.
    """

    def __init__(
        self,
        suite: Suite,
        make_batch: MakeBatch,
        levels: np.ndarray,
        seeds: Sequence[EpisodeSeeds],
        give_up: GiveUp,
        set_instruction: Callable[[int, str], None],
    ) -> None:
        self._seeds, self._set_instruction = seeds, set_instruction
        self._truncation_is_terminal = suite.truncation_is_terminal
        self._instructions = [""] * len(levels)
        self._levels: list[_LevelBatch] = []
        self._call: _Call | None = None
        self._shown: np.ndarray | None = None  # frames [E, ...] that were written last
        try:
            for level in dict.fromkeys(levels.tolist()):
                columns, name = np.flatnonzero(levels == level), suite.levels[level].name
                make = functools.partial(make_batch, name, len(columns))
                rules = OutcomeChecks(name, suite.spaces)
                self._levels.append(_LevelBatch(level, columns, make, rules, give_up))
        except BaseException:
            self.close()
            raise

    def begin_reset(self, out: AgentInput, seeds: Mapping[int, int] | None) -> None:
        """Begin to start episodes: in all environments with their next seeds, or in those that `seeds` names."""
        if seeds is None:
            seeds = {e: own.take() for e, own in enumerate(self._seeds)}
        resets = []
        for level in self._levels:
            games = np.array([i for i, e in enumerate(level.columns.tolist()) if e in seeds], np.int64)
            if len(games):
                resets.append(_Reset.begin(level, games, [seeds[e] for e in level.columns[games].tolist()]))
        self._call = _Call(out, resets)

    def begin_step(
        self,
        actions: Sequence[Any],
        out: AgentInput,
        result: StepResult,
        active: np.ndarray | None,
        auto_reset: bool,
    ) -> None:
        """Begin to act with the actions of all environments E; see `VectorEnv.begin`.

        Without `auto_reset` the row of `out` of an environment whose episode ends is not written.
        """
        self._call = call = _Call(out, [], result, auto_reset, active)
        for level in self._levels:
            level.playing, level.stepped = np.flatnonzero(~level.lost & call.acting(level.columns)), False
            if len(level.playing):
                level.begin_step([actions[e] for e in level.columns[level.playing]])

    def finish(self) -> None:
        """Wait for the call that was begun, and for the resets that follow a step."""
        assert self._call is not None
        call, self._call = self._call, None
        resets = list(call.resets)
        if call.result is not None:
            for level in self._levels:
                reset = self._finish_step(level, call, call.result)
                if reset is not None:
                    resets.append(reset)
        for level, games, start in resets:
            try:
                outcome = level.finish_reset()
            except Exception as e:  # an engine can raise anything
                self._recover(level, e, call, games)
            else:
                self._write(level.columns[games], outcome.frame, outcome.instructions, call.out)
                level.stats.reset_s.extend([(time.monotonic() - start) / len(games)] * len(games))
        self._shown = call.out.frame

    def _finish_step(self, level: _LevelBatch, call: _Call, result: StepResult) -> _Reset | None:
        """Finish the step of a level; returns the reset of the games whose episodes ended, which it begins."""
        ended = level.all_games[:0]
        if len(level.playing):
            try:
                outcome = level.finish_step()
            except Exception as e:  # an engine can raise anything
                self._recover(level, e, call, ended)
                return None
            ended = self._write_step(level, outcome, call.out, result)
            level.running[ended] = False
            level.stepped = True
        if level.lost.any():
            self._report_lost(level, call)
        return _Reset.begin(level, ended, None) if call.auto_reset and len(ended) else None

    def _recover(self, level: _LevelBatch, error: Exception, call: _Call, games: np.ndarray) -> None:
        """Restart the batch of a level after an error of a step, or of a reset of games [k], which begin anew.

        The other games lose their episodes: this step reports that, or the next one if there is none.
        """
        start = time.monotonic()
        shown = call.out.frame if level.stepped else self._shown
        running = level.running.copy()
        running[games] = False
        finals = {}
        for game in np.flatnonzero(running).tolist():
            if level.lost[game]:
                finals[game] = level.finals[game]
            else:
                assert shown is not None  # it has begun an episode
                e = int(level.columns[game])
                finals[game] = Observation(shown[e].copy(), self._instructions[e])
        outcome = level.restart(error, lambda e: self._seeds[e].take())
        level.finals = finals
        level.lost = running.copy()
        running[games] = True
        level.running = running
        words = None if outcome.instructions is None else list(outcome.instructions)
        level.beginnings = outcome._replace(frame=outcome.frame.copy(), instructions=words)
        level.stats.reset_s.append(time.monotonic() - start)
        self._begin_anew(level, games, call.out)
        if call.result is not None:
            self._report_lost(level, call)

    def _report_lost(self, level: _LevelBatch, call: _Call) -> None:
        """Let the episodes that were lost end with this step, in the environments that are active."""
        result, games = call.result, np.flatnonzero(level.lost & call.acting(level.columns))
        assert result is not None
        columns = level.columns[games]
        result.terminated[columns], result.truncated[columns] = False, True
        result.final_observations += [
            (e, level.finals.pop(i)) for e, i in zip(columns.tolist(), games.tolist(), strict=True)
        ]
        level.lost[games] = False
        self._begin_anew(level, games, call.out)

    def _begin_anew(self, level: _LevelBatch, games: np.ndarray, out: AgentInput) -> None:
        """Show the beginnings of the episodes of games [k] after a restart."""
        assert level.beginnings is not None
        frame, words = level.beginnings.frame[games], level.beginnings.instructions
        chosen = None if words is None else [words[i] for i in games.tolist()]
        self._write(level.columns[games], frame, chosen, out)

    def _write_step(
        self, level: _LevelBatch, outcome: BatchOutcome, out: AgentInput, result: StepResult
    ) -> np.ndarray:
        """Games [k] of a level whose episodes ended with the step; their rows of `out` are not written."""
        games, columns = level.playing, level.columns[level.playing]
        frame, reward, terminated, truncated, instructions = outcome
        level.returns[games] += reward
        level.lengths[games] += 1
        if self._truncation_is_terminal:
            terminated, truncated = terminated | truncated, np.zeros_like(truncated)
        result.reward[columns] = reward
        result.terminated[columns], result.truncated[columns] = terminated, truncated
        ended = terminated | truncated
        level.forgive(bool(ended.any()))
        if not ended.any():
            self._write(columns, frame, instructions, out)
            return np.zeros(0, np.int64)
        for i in np.flatnonzero(ended).tolist():
            e, game = int(columns[i]), games[i]
            episode = Episode(level.level, float(level.returns[game]), int(level.lengths[game]))
            result.episodes.append((e, episode))
            if truncated[i]:
                instruction = self._instructions[e] if instructions is None else instructions[i]
                result.final_observations.append((e, Observation(frame[i].copy(), instruction)))
        going = np.flatnonzero(~ended)
        words = None if instructions is None else [instructions[i] for i in going.tolist()]
        self._write(columns[going], frame[going], words, out)
        return games[ended]

    def _write(
        self, columns: np.ndarray, frame: np.ndarray, instructions: Sequence[str] | None, out: AgentInput
    ) -> None:
        out.frame[columns] = frame
        if instructions is not None:
            for e, instruction in zip(columns.tolist(), instructions, strict=True):
                self._instructions[e] = instruction
                self._set_instruction(e, instruction)

    def take_stats(self) -> list[EnvStats]:
        """Reset times and faults of each level since the last call."""
        return [level.take_stats() for level in self._levels]

    def take_faults(self) -> list[tuple[int, Fault]]:
        """(level, fault) pairs since the last call; another thread may call it."""
        return [(level.level, fault) for level in self._levels for fault in level.faults.take()]

    def interrupt(self) -> None:
        """End a pause after faults; a step of an engine is short."""
        for level in self._levels:
            level.faults.interrupted.set()

    def close(self) -> None:
        """Close every batch, even if one fails to close; raises the first error."""
        levels, self._levels = self._levels, []
        errors = []
        for level in levels:
            try:
                level.close()
            except Exception as e:  # the other batches must still be closed
                errors.append(e)
        if errors:
            raise errors[0]
