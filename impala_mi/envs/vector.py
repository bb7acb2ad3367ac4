"""Many environments of one actor, stepped together into preallocated arrays."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from impala_mi.envs.base import Environment, Observation, Step, StepResult, Suite
from impala_mi.envs.batch import BatchPlayers
from impala_mi.envs.faults import GiveUp
from impala_mi.envs.ready import as_ready
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.envs.step_pool import StepPool
from impala_mi.tokenizer import tokenize
from impala_mi.types import AgentInput, EnvStats, Fault


class _PendingStep(NamedTuple):
    """A step in progress."""

    result: StepResult
    actions: np.ndarray
    out: AgentInput


class VectorEnv:
    """E environments; environment e plays level `levels[e]`.

    Args:
        suite: makes the environments, or batches of them.
        levels: level index of each environment.
        seeds: episode seeds of each environment.
        tokens: L, the length to which instructions are cut.
        give_up: see `FaultLog`.
    """

    def __init__(
        self,
        suite: Suite,
        levels: Sequence[int],
        seeds: Sequence[EpisodeSeeds],
        tokens: int,
        give_up: GiveUp = "first",
    ) -> None:
        self.levels = np.asarray(levels, np.int64)
        self._reward_scale = np.array([suite.levels[i].reward_scale for i in levels], np.float32)
        self._scales_rewards = bool((self._reward_scale != 1).any())
        self._length = tokens if suite.spaces.instructions else 0
        self._actions = suite.spaces.action_space
        self._pending: _PendingStep | None = None
        self._instructions = [""] * len(levels)
        self._tokens = np.tile(tokenize("", self._length), (len(levels), 1))
        self._players: GamePlayers | BatchPlayers
        if suite.make_batch is None:
            self._players = GamePlayers(suite, levels, seeds, give_up, self._set_instruction)
        else:
            self._players = BatchPlayers(
                suite, suite.make_batch, self.levels, seeds, give_up, self._set_instruction
            )

    def __len__(self) -> int:
        return len(self.levels)

    def reset(self, out: AgentInput, seeds: Mapping[int, int] | None = None) -> None:
        """Start an episode in every environment and write its first observation to the [E, ...] arrays of `out`.

        With `seeds`, which maps environments to seeds, only those environments are reset.
        """
        self.begin_reset(out, seeds)()

    def begin_reset(self, out: AgentInput, seeds: Mapping[int, int] | None = None) -> Callable[[], None]:
        """Start a `reset` and return the function that waits for its end; call that before any other method."""
        chosen = list(range(len(self)) if seeds is None else seeds)
        self._players.begin_reset(out, seeds)

        def finish() -> None:
            self._players.finish()
            out.tokens[chosen] = self._tokens[chosen]
            out.first[chosen] = True
            out.last_action[chosen] = self._actions.no_action
            out.last_reward[chosen] = 0
            out.level[:] = self.levels

        return finish

    def step(
        self, actions: np.ndarray, out: AgentInput, active: np.ndarray | None = None, auto_reset: bool = True
    ) -> StepResult:
        """Act with `actions` [E] and write the next inputs of the agent to the [E, ...] arrays of `out`.

        Environments that are not `active` [E] are skipped. Without `auto_reset`, an environment whose episode ends
        waits for a `reset`.
        """
        self.begin(actions, out, active, auto_reset)
        return self.finish()

    def begin(
        self, actions: np.ndarray, out: AgentInput, active: np.ndarray | None = None, auto_reset: bool = True
    ) -> None:
        """Start a `step` without waiting for the games; call `finish` before any other method."""
        size = len(self)
        result = StepResult(np.zeros(size, np.float32), np.zeros(size, bool), np.zeros(size, bool))
        self._players.begin_step(self._actions.env_actions(actions), out, result, active, auto_reset)
        self._pending = _PendingStep(result, actions, out)

    def finish(self) -> StepResult:
        """Wait for the step that `begin` started; raises what a level raised."""
        assert self._pending is not None
        result, actions, out = self._pending
        self._pending = None
        self._players.finish()
        if result.episodes or result.final_observations:
            result.episodes.sort(key=lambda pair: pair[0])
            result.final_observations.sort(key=lambda pair: pair[0])
        if self._scales_rewards:
            result.reward *= self._reward_scale
        np.logical_or(result.terminated, result.truncated, out=out.first)
        out.tokens[:] = self._tokens
        out.last_action[:] = actions
        out.last_reward[:] = result.reward
        out.level[:] = self.levels
        if out.first.any():
            out.last_action[out.first] = self._actions.no_action
            out.last_reward[out.first] = 0
        return result

    def take_stats(self) -> list[EnvStats]:
        """Statistics since the last call, of the environments that reset, faulted or counted anything."""
        return [s for s in self._players.take_stats() if s.reset_s or s.faults or any(s.counts.values())]

    def take_faults(self) -> list[tuple[int, Fault]]:
        """(level, fault) pairs since the last call; another thread may call it."""
        return self._players.take_faults()

    def interrupt(self) -> None:
        """Make another thread that waits for a game raise `RuntimeError` soon."""
        self._players.interrupt()

    def tokens(self, instruction: str) -> np.ndarray:
        """Hash buckets of an instruction, [L]."""
        return tokenize(instruction, self._length)

    def close(self) -> None:
        """Close every environment, even if one fails to close; raises the first error."""
        self._players.close()

    def _set_instruction(self, e: int, instruction: str) -> None:
        """Let the next observations of environment e have this instruction."""
        if self._length and instruction != self._instructions[e]:
            self._instructions[e] = instruction
            self._tokens[e] = self.tokens(instruction)


class GamePlayers:
    """Environments of an actor that play a game each, in this thread or in the threads of a step pool.

    Args:
        suite: makes the environments.
        levels: level index of each environment [E].
        seeds: episode seeds of each environment [E].
        give_up: see `FaultLog`.
        set_instruction: called with an environment and the instruction of each observation.
    """

    def __init__(
        self,
        suite: Suite,
        levels: Sequence[int],
        seeds: Sequence[EpisodeSeeds],
        give_up: GiveUp,
        set_instruction: Callable[[int, str], None],
    ) -> None:
        self._set_instruction = set_instruction
        threads = min(suite.step_threads, len(levels))
        self._pool = StepPool(threads) if threads > 1 else None
        self._groups = [range(i, len(levels), threads) for i in range(threads)]
        self._finish_begun: Callable[[], None] | None = None
        self._environments: list[Environment] = []
        try:
            for level, seed in zip(levels, seeds, strict=True):
                self._environments.append(suite.make_environment(level, seed, give_up))
        except BaseException:
            self.close()
            raise
        self._remote = all(environment.is_remote for environment in self._environments)

    def begin_reset(self, out: AgentInput, seeds: Mapping[int, int] | None) -> None:
        """Begin a reset; see `VectorEnv.begin_reset`."""

        def reset(e: int) -> None:
            if seeds is None or e in seeds:
                step = self._environments[e].reset(None if seeds is None else seeds[e])
                self._write(e, step.observation, out)

        self._begin(reset)

    def begin_step(
        self,
        actions: Sequence[Any],
        out: AgentInput,
        result: StepResult,
        active: np.ndarray | None,
        auto_reset: bool,
    ) -> None:
        """Begin a step with the actions of all environments E, which fills `result`; see `VectorEnv.begin`."""

        def step(e: int) -> None:
            if active is None or active[e]:
                write(e, self._environments[e].step(actions[e], auto_reset))

        def write(e: int, step: Step) -> None:
            self._write(e, step.observation, out)
            result.reward[e] = step.reward
            result.terminated[e], result.truncated[e] = step.terminated, step.truncated
            if step.episode is not None:
                result.episodes.append((e, step.episode))
            if step.final_observation is not None:
                result.final_observations.append((e, step.final_observation))

        if not self._remote:
            self._begin(step)
            return
        begun = [e for e in range(len(self._environments)) if active is None or active[e]]
        for e in begun:
            self._environments[e].begin(actions[e])
        self._finish_begun = functools.partial(self._finish_remote, begun, write, auto_reset)

    def finish(self) -> None:
        """Wait for the step or reset that was begun."""
        if self._finish_begun is not None:
            self._finish_begun()
            self._finish_begun = None  # not after an error: `close` must know that steps are in progress
        if self._pool is not None:
            self._pool.finish()

    def _finish_remote(self, begun: list[int], write: Callable[[int, Step], None], auto_reset: bool) -> None:
        """Finish the steps of remote games in this thread; those that end an episode in the threads of the pool."""

        def finish_episode(e: int) -> None:
            write(e, self._environments[e].finish_episode(auto_reset))

        if len(begun) == 1:
            return finish_episode(begun[0])
        for e, arrived in as_ready({e: self._environments[e].awaited() for e in begun}):
            step = self._environments[e].finish() if arrived else None
            if step is not None:
                write(e, step)
            elif self._pool is None:
                finish_episode(e)
            else:
                self._pool.begin([functools.partial(finish_episode, e)])

    def take_stats(self) -> list[EnvStats]:
        """Statistics of each environment since the last call."""
        return [environment.take_stats() for environment in self._environments]

    def take_faults(self) -> list[tuple[int, Fault]]:
        """(level, fault) pairs since the last call; another thread may call it."""
        return [(e.level, fault) for e in self._environments for fault in e.take_faults()]

    def interrupt(self) -> None:
        """Make another thread that waits for a game raise `RuntimeError` soon."""
        for environment in self._environments:
            environment.interrupt()

    def close(self) -> None:
        """Close every environment, even if one fails to close; raises the first error."""
        if self._pool is not None or self._finish_begun is not None:
            self.interrupt()  # nobody waits for the steps in progress
        if self._pool is not None:
            self._pool.close()
        errors = []
        for environment in self._environments:
            try:
                environment.close()
            except Exception as e:  # the other environments must still be closed
                errors.append(e)
        self._environments = []
        if errors:
            raise errors[0]

    def _write(self, e: int, observation: Observation, out: AgentInput) -> None:
        out.frame[e] = observation.frame
        self._set_instruction(e, observation.instruction)

    def _begin(self, work: Callable[[int], None]) -> None:
        """Run `work` for every environment: in this thread, or in the threads of the step pool."""

        def run(group: range) -> None:
            for e in group:
                work(e)

        if self._pool is None:
            run(range(len(self._environments)))
        else:
            self._pool.begin([functools.partial(run, group) for group in self._groups])
