"""Rollouts: an actor's environments, played by the agent for T steps; see `types` for the alignment."""

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from impala_mi.actors.inference import Infer, InferenceLost, Request
from impala_mi.config import ActorsConfig, Config
from impala_mi.envs.base import GiveUp, Observation, Suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.nn.agent import Agent
from impala_mi.nn.precision import choose_dtype
from impala_mi.types import (
    AgentInput,
    Episode,
    Fault,
    FinalObservations,
    RecurrentState,
    Rollout,
    RolloutInfo,
    leaves,
    transitions_buffer,
)

FIRST_SEED_EPOCH = (0, 0, 0)
"""Seed epoch of a run's first start: updates before it, starts before it, restarts of the actor in it."""


def assign_levels(config: ActorsConfig, num_levels: int) -> list[list[int]]:
    """Level index of each environment of each actor.

    With `per_level` an actor plays one level; otherwise the environments of all actors take the levels in turn.
    """
    actors = range(config.number(num_levels))
    if config.per_level is not None:
        return [[a % num_levels] * config.envs for a in actors]
    return [[(a * config.envs + e) % num_levels for e in range(config.envs)] for a in actors]


class RolloutWorker:
    """E environments played by one agent, in the calling process; `worker` wraps it for Ray.

    Args:
        config: the run's configuration.
        suite: suite of the levels.
        actor: index of the actor, which determines its levels and seeds.
    """

    def __init__(self, config: Config, suite: Suite, actor: int) -> None:
        self.actor = actor
        self._config, self._suite = config, suite
        envs = config.actors.envs
        dtype = choose_dtype(config.actors.precision, config.agent.torso, torch.device("cpu"))
        self._agent = Agent(config.agent, suite.spaces).eval().act_in(dtype)
        self._version = -1
        self._tokens = config.agent.instruction_tokens
        self._assignment = assign_levels(config.actors, len(suite.levels))
        self._levels = self._assignment[actor]
        self._buffer = transitions_buffer(
            suite.spaces, config.learner.unroll_length, envs, self._tokens, self._agent.initial_state(envs)
        )
        self._generator = torch.Generator()
        self._columns = columns_of_groups(config.actors, suite)
        self._groups: list[_Group] = []

    def start(self, seed_epoch: Sequence[int]) -> None:
        """Start every environment, or start it anew.

        `seed_epoch` counts the run's updates before this start, its starts before, and the restarts of the actor in
        it; each gives the environments other seeds. Raises what a level raises, in particular `LevelBroken`.
        """
        self.close()
        root = [self._config.seed, *seed_epoch]
        begin, count = self.actor * len(self._levels), len(self._levels)
        levels = [k for actor_levels in self._assignment for k in actor_levels]
        seeds = self._suite.assign_seeds(root, levels)[begin : begin + count]
        sampling = np.random.SeedSequence(root, spawn_key=(2**31, self.actor))
        self._generator.manual_seed(int(sampling.generate_state(1, np.uint64)[0]) >> 1)
        # The levels of an actor that replaces a dead one have worked before.
        give_up: GiveUp = "never" if seed_epoch[-1] else "first"
        try:
            for c in self._columns:
                vector = VectorEnv(self._suite, self._levels[c], seeds[c], self._tokens, give_up)
                self._groups.append(_Group(c, vector, self._agent.initial_state(len(vector))))
            # Row T of the buffer holds the next observations: the first unroll starts with it.
            next_obs = [(g.vector, row(self._buffer.inputs, -1, g.columns)) for g in self._groups]
            for finish in [vector.begin_reset(out) for vector, out in next_obs]:
                finish()
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        """Version of the weights that act; -1 before the first."""
        return self._version

    def load(self, weights: dict[str, np.ndarray], version: int) -> None:
        """Act with these weights from now on."""
        self._agent.load_weights(weights)
        self._version = version

    def collect(self, infer: Infer | None = None) -> Rollout:
        """Play T steps in every environment; `infer` replaces the own network if inference is central.

        The next call reuses the arrays: copy or send them before. After `InferenceLost` the next rollout begins
        where this one stopped.
        """
        assert self._groups
        buffer, stats = self._buffer, _RolloutStats()
        cpu, start = time.process_time(), time.perf_counter()
        for a in buffer.inputs:
            a[0] = a[-1]
        version = self._play(stats) if infer is None else self._play_central(infer, stats)
        total = time.perf_counter() - start
        seconds = {"act": stats.acting, "step": total - stats.acting, "cpu": time.process_time() - cpu}
        env_stats = [u for group in self._groups for u in group.vector.take_stats()]
        info = RolloutInfo(self.actor, version, stats.episodes, env_stats, seconds)
        finals = self._final_observations(stats.final_observations)
        return Rollout(info, buffer._replace(final_observations=finals))

    def _play(self, stats: "_RolloutStats") -> int:
        """Play T steps with the own network; the groups alternate. Returns the version of the weights."""
        steps = len(self._buffer.action)
        for group in self._groups:
            self._record_state(group.columns, group.state)
        for t in range(steps):
            for group in self._groups:
                if t:
                    self._finish(group, t - 1, stats)
                self._act(group, t, stats)
        for group in self._groups:
            self._finish(group, steps - 1, stats)
        return self._version

    def _play_central(self, infer: Infer, stats: "_RolloutStats") -> int:
        """Play T steps with each group in a thread: while one waits for actions the others' games step.

        Returns the oldest version that acted; the logits are those of the weights that acted at each step.
        """
        buffer, versions = self._buffer, []

        def play(number: int, group: _Group) -> None:
            c = group.columns
            for t in range(len(buffer.action)):
                start, inputs = time.perf_counter(), row(buffer.inputs, t, c)
                try:
                    reply = infer(Request((self.actor, number), inputs, begins=t == 0))
                except InferenceLost:
                    for a in buffer.inputs:
                        a[-1, c] = a[t, c]
                    raise
                if reply.state is not None:
                    self._record_state(c, reply.state)
                buffer.action[t, c], buffer.logits[t, c] = reply.action, reply.logits
                versions.append(reply.version)
                stats.acting += (time.perf_counter() - start) / len(self._groups)
                group.vector.begin(buffer.action[t, c], row(buffer.inputs, t + 1, c))
                self._finish(group, t, stats)

        with ThreadPoolExecutor(len(self._groups)) as pool:
            for future in [pool.submit(play, i, group) for i, group in enumerate(self._groups)]:
                future.result()
        return min(versions)

    def _record_state(self, columns: slice, state: RecurrentState) -> None:
        """Write the recurrent state [N, ...] before the unroll to the buffer."""
        for array, value in zip(leaves(self._buffer.state), leaves(state), strict=True):
            array[columns] = value.numpy() if isinstance(value, torch.Tensor) else value

    def _act(self, group: "_Group", t: int, stats: "_RolloutStats") -> None:
        """Choose the actions of step t and let the games begin it."""
        start, buffer, c = time.perf_counter(), self._buffer, group.columns
        inputs = row(buffer.inputs, t, c)
        action, logits, _, group.state = self._agent.act(inputs, group.state, self._generator)
        buffer.action[t, c], buffer.logits[t, c] = action.numpy(), logits.numpy()
        stats.acting += time.perf_counter() - start
        group.vector.begin(buffer.action[t, c], row(buffer.inputs, t + 1, c))

    def _finish(self, group: "_Group", t: int, stats: "_RolloutStats") -> None:
        """Wait for the games to end step t."""
        buffer, c = self._buffer, group.columns
        result = group.vector.finish()
        buffer.reward[t, c] = result.reward
        buffer.terminated[t, c], buffer.truncated[t, c] = result.terminated, result.truncated
        stats.episodes += [episode for _, episode in result.episodes]
        stats.final_observations += [(t, c.start + e, observation) for e, observation in result.final_observations]

    def _final_observations(self, observations: list[tuple[int, int, Observation]]) -> FinalObservations:
        if not observations:
            return self._buffer.final_observations
        tokens = self._groups[0].vector.tokens
        return FinalObservations(
            time=np.array([t for t, _, _ in observations]),
            column=np.array([e for _, e, _ in observations]),
            frame=np.stack([o.frame for _, _, o in observations]),
            tokens=np.stack([tokens(o.instruction) for _, _, o in observations]),
        )

    def take_faults(self) -> list[tuple[int, Fault]]:
        """Level and fault of each fault since the last call; another thread may ask while a rollout is played."""
        return [fault for group in list(self._groups) for fault in group.vector.take_faults()]

    def interrupt(self) -> None:
        """Make another thread that plays raise `RuntimeError` soon."""
        for group in list(self._groups):
            group.vector.interrupt()

    def close(self) -> None:
        """Free the environments, even if one fails to close."""
        groups, self._groups = self._groups, []
        with contextlib.ExitStack() as stack:
            for group in groups:
                stack.callback(group.vector.close)


@dataclass
class _Group:
    """Environments that are stepped together, and the recurrent state after their last observation."""

    columns: slice
    vector: VectorEnv
    state: RecurrentState


@dataclass
class _RolloutStats:
    """Results of a rollout beside its arrays."""

    episodes: list[Episode] = field(default_factory=list)
    final_observations: list[tuple[int, int, Observation]] = field(default_factory=list)
    """Time, column and observation."""
    acting: float = 0.0
    """Seconds spent on choosing actions."""


def columns_of_groups(config: ActorsConfig, suite: Suite) -> list[slice]:
    """Columns of the environments that are stepped together: two halves if one can step while the other acts."""
    return halves(config.envs) if suite.alternate or config.inference == "central" else [slice(0, config.envs)]


def halves(envs: int) -> list[slice]:
    """Columns of two groups of environments, or of one group if there is only one environment."""
    middle = (envs + 1) // 2
    return [c for c in (slice(0, middle), slice(middle, envs)) if c.start < c.stop]


def row(inputs: AgentInput, t: int, columns: slice) -> AgentInput:
    """Views [columns, ...] of step t."""
    return AgentInput(*(a[t, columns] for a in inputs))
