"""Engines that step many games of one level together: their automatic resets, and a game of one of them.

The author of such a suite writes a `GameBatch` and names its constructor in `Suite.make_batch`; `Suite.make_game`
is `functools.partial(BatchedGame, make_batch)`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from impala_mi.envs.base import BatchOutcome, Game, GameBatch, MakeBatch, Observation, Outcome, StepResult, Suite
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
        batch: the games.
    """

    def __init__(self, level: int, columns: np.ndarray, batch: GameBatch) -> None:
        self.level, self.columns, self.batch = level, columns, batch
        self.all_games = np.arange(len(columns))
        self.playing = self.all_games[:0]  # games [k] of the step in progress
        self.returns = np.zeros(len(columns))  # [n] sums of the unscaled rewards
        self.lengths = np.zeros(len(columns), np.int64)  # [n] agent steps
        self.stats = EnvStats(level)


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
        level.batch.begin_reset(games, seeds)
        return cls(level, games, start)


class _Call(NamedTuple):
    """A step or reset in progress."""

    out: AgentInput
    resets: list[_Reset]
    result: StepResult | None = None
    """Result of the step; None for a reset."""
    auto_reset: bool = True


class BatchPlayers:
    """Batches of an actor, one per level, with same-step resets: where an episode ends the next one starts.

    All levels begin a step before the first is waited for, so their engines work at the same time. Episodes that
    end are followed by resets of their games alone.

    Args:
        suite: names the levels.
        make_batch: makes a batch.
        levels: level index of each environment [E].
        seeds: episode seeds of each environment [E]; only an environment's first episode takes one.
        set_instruction: called with an environment and the instruction of each new episode.
    """

    def __init__(
        self,
        suite: Suite,
        make_batch: MakeBatch,
        levels: np.ndarray,
        seeds: Sequence[EpisodeSeeds],
        set_instruction: Callable[[int, str], None],
    ) -> None:
        self._seeds, self._set_instruction = seeds, set_instruction
        self._truncation_is_terminal = suite.truncation_is_terminal
        self._instructions = [""] * len(levels)
        self._levels: list[_LevelBatch] = []
        self._call: _Call | None = None
        try:
            for level in dict.fromkeys(levels.tolist()):
                columns = np.flatnonzero(levels == level)
                batch = make_batch(suite.levels[level].name, len(columns))
                self._levels.append(_LevelBatch(level, columns, batch))
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
        for level in self._levels:
            games = level.all_games
            level.playing = games if active is None else games[active[level.columns]]
            if len(level.playing):
                level.batch.begin_step(level.playing, [actions[e] for e in level.columns[level.playing]])
        self._call = _Call(out, [], result, auto_reset)

    def finish(self) -> None:
        """Wait for the call that was begun, and for the resets that follow a step."""
        assert self._call is not None
        call, self._call = self._call, None
        resets = list(call.resets)
        if call.result is not None:
            for level in self._levels:
                if len(level.playing):
                    ended = self._finish_step(level, call.out, call.result)
                    if call.auto_reset and len(ended):
                        resets.append(_Reset.begin(level, ended, None))
        for level, games, start in resets:
            outcome = level.batch.finish()
            self._write(level.columns[games], outcome.frame, outcome.instructions, call.out)
            level.returns[games], level.lengths[games] = 0, 0
            level.stats.reset_s.extend([(time.monotonic() - start) / len(games)] * len(games))

    def _finish_step(self, level: _LevelBatch, out: AgentInput, result: StepResult) -> np.ndarray:
        """Games [k] of a level whose episodes ended with the step; their rows of `out` are not written."""
        games, columns = level.playing, level.columns[level.playing]
        frame, reward, terminated, truncated, instructions = level.batch.finish()
        level.returns[games] += reward
        level.lengths[games] += 1
        if self._truncation_is_terminal:
            terminated, truncated = terminated | truncated, np.zeros_like(truncated)
        result.reward[columns] = reward
        result.terminated[columns], result.truncated[columns] = terminated, truncated
        ended = terminated | truncated
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
        """Reset times of each level since the last call."""
        stats = [level.stats for level in self._levels]
        for level in self._levels:
            level.stats = EnvStats(level.level)
        return stats

    def take_faults(self) -> list[tuple[int, Fault]]:
        """Nothing: an error of an engine ends the actor."""
        return []

    def interrupt(self) -> None:
        """Do nothing: a step of an engine is short."""

    def close(self) -> None:
        """Close every batch, even if one fails to close; raises the first error."""
        levels, self._levels = self._levels, []
        errors = []
        for level in levels:
            try:
                level.batch.close()
            except Exception as e:  # the other batches must still be closed
                errors.append(e)
        if errors:
            raise errors[0]
