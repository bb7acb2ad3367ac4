"""Many environments of one actor, stepped together into preallocated arrays."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from impala_mi.envs.base import Environment, GiveUp, Observation, Suite
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.envs.step_pool import StepPool
from impala_mi.tokenizer import tokenize
from impala_mi.types import AgentInput, EnvStats, Episode, Fault


@dataclass
class StepResult:
    """Result of one step of E environments."""

    reward: np.ndarray
    """[E] float32, scaled by the level's `reward_scale`."""
    terminated: np.ndarray
    """[E] bool."""
    truncated: np.ndarray
    """[E] bool."""
    episodes: list[tuple[int, Episode]] = field(default_factory=list)
    """(environment, episode) of the episodes that ended, by environment."""
    final_observations: list[tuple[int, Observation]] = field(default_factory=list)
    """(environment, final observation) of the episodes that were truncated, by environment."""


class _PendingStep(NamedTuple):
    """A step in progress."""

    result: StepResult
    actions: np.ndarray
    out: AgentInput


class VectorEnv:
    """E environments; environment e plays level `levels[e]`.

    Args:
        suite: makes the environments.
        levels: level index of each environment.
        seeds: episode seeds of each environment.
        tokens: L, the length to which instructions are cut.
        give_up: see `Environment`.
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
        self._tokens = tokens if suite.spaces.instructions else 0
        self._actions = suite.spaces.action_space
        threads = min(suite.step_threads, len(levels))
        self._pool = StepPool(threads) if threads > 1 else None
        self._groups = [range(i, len(levels), threads) for i in range(threads)]
        self._pending: _PendingStep | None = None
        self._instructions: list[tuple[str, np.ndarray]] = [("", tokenize("", self._tokens))] * len(levels)
        self._environments: list[Environment] = []
        try:
            for level, seed in zip(levels, seeds, strict=True):
                self._environments.append(suite.make_environment(level, seed, give_up))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._environments)

    def reset(self, out: AgentInput, seeds: Mapping[int, int] | None = None) -> None:
        """Start an episode in every environment and write its first observation to the [E, ...] arrays of `out`.

        With `seeds`, which maps environments to seeds, only those environments are reset.
        """
        self.begin_reset(out, seeds)()

    def begin_reset(self, out: AgentInput, seeds: Mapping[int, int] | None = None) -> Callable[[], None]:
        """Start a `reset` and return the function that waits for its end; call that before any other method."""
        chosen = list(range(len(self)) if seeds is None else seeds)

        def reset(e: int) -> None:
            if seeds is None or e in seeds:
                step = self._environments[e].reset(None if seeds is None else seeds[e])
                self._write(e, step.observation, out)

        self._begin(reset)

        def finish() -> None:
            self._wait()
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
        action_list = self._actions.env_actions(actions)

        def step(e: int) -> None:
            if active is not None and not active[e]:
                return
            step = self._environments[e].step(action_list[e], auto_reset)
            self._write(e, step.observation, out)
            result.reward[e] = step.reward
            result.terminated[e], result.truncated[e] = step.terminated, step.truncated
            if step.episode is not None:
                result.episodes.append((e, step.episode))
            if step.final_observation is not None:
                result.final_observations.append((e, step.final_observation))

        self._begin(step)
        self._pending = _PendingStep(result, actions, out)

    def finish(self) -> StepResult:
        """Wait for the step that `begin` started; raises what a level raised."""
        assert self._pending is not None
        result, actions, out = self._pending
        self._pending = None
        self._wait()
        result.episodes.sort(key=lambda pair: pair[0])
        result.final_observations.sort(key=lambda pair: pair[0])
        result.reward *= self._reward_scale
        np.logical_or(result.terminated, result.truncated, out=out.first)
        out.last_action[:] = actions
        out.last_action[out.first] = self._actions.no_action
        out.last_reward[:] = np.where(out.first, 0, result.reward)
        out.level[:] = self.levels
        return result

    def take_stats(self) -> list[EnvStats]:
        """Statistics since the last call, of the environments that reset, faulted or counted anything."""
        stats = [environment.take_stats() for environment in self._environments]
        return [s for s in stats if s.reset_s or s.faults or any(s.counts.values())]

    def take_faults(self) -> list[tuple[int, Fault]]:
        """(level, fault) pairs since the last call; another thread may call it."""
        return [(e.level, fault) for e in self._environments for fault in e.take_faults()]

    def interrupt(self) -> None:
        """Make another thread that waits for a game raise `RuntimeError` soon."""
        for environment in self._environments:
            environment.interrupt()

    def tokens(self, instruction: str) -> np.ndarray:
        """Hash buckets of an instruction, [L]."""
        return tokenize(instruction, self._tokens)

    def close(self) -> None:
        """Close every environment, even if one fails to close; raises the first error."""
        if self._pool is not None:
            self.interrupt()
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
        if self._tokens:
            if observation.instruction != self._instructions[e][0]:
                self._instructions[e] = (observation.instruction, self.tokens(observation.instruction))
            out.tokens[e] = self._instructions[e][1]

    def _begin(self, work: Callable[[int], None]) -> None:
        """Run `work` for every environment: in this thread, or in the threads of the step pool."""

        def run(group: range) -> None:
            for e in group:
                work(e)

        if self._pool is None:
            run(range(len(self)))
        else:
            self._pool.begin([functools.partial(run, group) for group in self._groups])

    def _wait(self) -> None:
        if self._pool is not None:
            self._pool.finish()
