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
from impala_mi.types import NO_ACTION, AgentInput, EnvStats, Episode, Fault


@dataclass
class StepResult:
    """What E actions brought."""

    reward: np.ndarray
    """[E] float32, scaled by the level."""
    terminated: np.ndarray
    """[E] bool."""
    truncated: np.ndarray
    """[E] bool."""
    episodes: list[tuple[int, Episode]] = field(default_factory=list)
    """(column, episode) of those that ended."""
    final_observations: list[tuple[int, Observation]] = field(default_factory=list)
    """(column, final observation) of those that were truncated."""


class _Stepping(NamedTuple):
    """A step that has begun."""

    result: StepResult
    actions: np.ndarray
    out: AgentInput


class VectorEnv:
    """E environments, the e-th of level `levels[e]`.

    Args:
        suite: makes the environments.
        levels: level index of each column.
        seeds: where each column's episodes come from.
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
        self.scale = np.array([suite.levels[i].reward_scale for i in levels], np.float32)
        self._tokens = tokens if suite.spaces.instructions else 0
        threads = min(suite.step_threads, len(levels))
        self._crew = StepPool(threads) if threads > 1 else None
        self._groups = [range(i, len(levels), threads) for i in range(threads)]
        self._stepping: _Stepping | None = None
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
        """Start an episode everywhere and write its first observation to the [E, ...] arrays of `out`.

        With `seeds`, only in its columns, and of those seeds.
        """
        self.begin_reset(out, seeds)()

    def begin_reset(self, out: AgentInput, seeds: Mapping[int, int] | None = None) -> Callable[[], None]:
        """`reset` up to where it would wait for the games; call what it returns before anything else."""
        chosen = list(range(len(self)) if seeds is None else seeds)

        def reset(e: int) -> None:
            if seeds is None or e in seeds:
                step = self._environments[e].reset(None if seeds is None else seeds[e])
                self._write(e, step.observation, out)

        self._spread(reset)

        def finish() -> None:
            self._wait()
            out.first[chosen] = True
            out.last_action[chosen] = NO_ACTION
            out.last_reward[chosen] = 0
            out.level[:] = self.levels

        return finish

    def step(
        self,
        actions: np.ndarray,
        out: AgentInput,
        active: np.ndarray | None = None,
        again: bool = True,
    ) -> StepResult:
        """Act with `actions` [E] and write what the agent sees next to the [E, ...] arrays of `out`.

        Columns that are not `active` [E] rest. Without `again` those whose episode ends wait for a `reset`.
        """
        self.begin(actions, out, active, again)
        return self.finish()

    def begin(
        self,
        actions: np.ndarray,
        out: AgentInput,
        active: np.ndarray | None = None,
        again: bool = True,
    ) -> None:
        """`step` up to where it would wait for the games; `finish` before anything else is asked."""
        result = StepResult(np.zeros(len(self), np.float32), np.zeros(len(self), bool), np.zeros(len(self), bool))
        plain = actions.tolist()

        def step(e: int) -> None:
            if active is not None and not active[e]:
                return
            step = self._environments[e].step(plain[e], again)
            self._write(e, step.observation, out)
            result.reward[e] = step.reward
            result.terminated[e], result.truncated[e] = step.terminated, step.truncated
            if step.episode is not None:
                result.episodes.append((e, step.episode))
            if step.final_observation is not None:
                result.final_observations.append((e, step.final_observation))

        self._spread(step)
        self._stepping = _Stepping(result, actions, out)

    def finish(self) -> StepResult:
        """What `begin` began; raises what a level raised."""
        assert self._stepping is not None
        result, actions, out = self._stepping
        self._stepping = None
        self._wait()
        result.episodes.sort(key=lambda pair: pair[0])
        result.final_observations.sort(key=lambda pair: pair[0])
        result.reward *= self.scale
        np.logical_or(result.terminated, result.truncated, out=out.first)
        out.last_action[:] = np.where(out.first, NO_ACTION, actions)
        out.last_reward[:] = np.where(out.first, 0, result.reward)
        out.level[:] = self.levels
        return result

    def take_stats(self) -> list[EnvStats]:
        """What the environments did beside stepping since the last call, of those that did anything."""
        env_stats = [environment.take_stats() for environment in self._environments]
        return [u for u in env_stats if u.reset_s or u.faults or any(u.counts.values())]

    def take_faults(self) -> list[tuple[int, Fault]]:
        """Level and fault, since the last call; another thread may ask."""
        return [(e.level, fault) for e in self._environments for fault in e.take_faults()]

    def interrupt(self) -> None:
        """Have another thread that waits for a game raise `RuntimeError` soon."""
        for environment in self._environments:
            environment.interrupt()

    def tokens(self, instruction: str) -> np.ndarray:
        """[L] hash buckets of an instruction."""
        return tokenize(instruction, self._tokens)

    def close(self) -> None:
        """Free every environment, also where one fails to close."""
        if self._crew is not None:
            self.interrupt()
            self._crew.close()
        errors = []
        for environment in self._environments:
            try:
                environment.close()
            except Exception as e:  # the others must be closed all the same
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

    def _spread(self, work: Callable[[int], None]) -> None:
        """Do it for every column: here and now, or by the threads that step the games."""

        def group(columns: range) -> None:
            for e in columns:
                work(e)

        if self._crew is None:
            group(range(len(self)))
        else:
            self._crew.begin([functools.partial(group, columns) for columns in self._groups])

    def _wait(self) -> None:
        if self._crew is not None:
            self._crew.finish()
