"""The rollout: environments and an agent to unrolls. Pure of Ray; see `types` for the alignment."""

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
    CoreState,
    Episode,
    Fault,
    FinalObservations,
    Rollout,
    RolloutInfo,
    transitions_buffer,
)

FIRST_SEED_EPOCH = (0, 0, 0)
"""Of a run's first start: updates before it, starts before it, actors replaced in it."""


def assign_levels(config: ActorsConfig, num_levels: int) -> list[list[int]]:
    """Level index of each environment of each actor.

    With `per_level` an actor plays one level; otherwise all slots of all actors take the levels in turn.
    """
    actors = range(config.number(num_levels))
    if config.per_level is not None:
        return [[a % num_levels] * config.envs for a in actors]
    return [[(a * config.envs + e) % num_levels for e in range(config.envs)] for a in actors]


class RolloutWorker:
    """E environments played by one agent.

    Args:
        config: the run's configuration.
        suite: what is played.
        actor: index of the actor; it decides the levels and the seeds.
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
            suite.spaces, config.learner.unroll_length, envs, self._tokens, config.agent.core_width
        )
        self._generator = torch.Generator()
        self._columns = columns_of_groups(config.actors, suite)
        self._groups: list[_Group] = []

    def start(self, seed_epoch: Sequence[int]) -> None:
        """Start every environment, or start it anew.

        `segment` is the run's updates before this start, its starts before, and the actors replaced in it: it gives
        the environments other seeds than they had. Raises what a level raises, `LevelBroken` above all.
        """
        self.close()
        root = [self._config.seed, *seed_epoch]
        slot, envs = self.actor * len(self._levels), len(self._levels)
        seeds = self._suite.assign_seeds(root, [k for levels in self._assignment for k in levels])[
            slot : slot + envs
        ]
        sampling = np.random.SeedSequence(root, spawn_key=(2**31, self.actor))
        self._generator.manual_seed(int(sampling.generate_state(1, np.uint64)[0]) >> 1)
        # In the place of an actor that died the levels have worked before.
        give_up: GiveUp = "never" if seed_epoch[-1] else "first"
        try:
            for c in self._columns:
                vector = VectorEnv(self._suite, self._levels[c], seeds[c], self._tokens, give_up)
                self._groups.append(_Group(c, vector, self._agent.initial_state(len(vector))))
            # Row T of the buffer is the present: the next unroll starts with it.
            present = [(g.vector, row(self._buffer.inputs, -1, g.columns)) for g in self._groups]
            for finish in [vector.begin_reset(out) for vector, out in present]:
                finish()
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        """Of the weights that act; -1 before the first."""
        return self._version

    def load(self, weights: dict[str, np.ndarray], version: int) -> None:
        """Act with these weights from now on."""
        self._agent.load_weights(weights)
        self._version = version

    def unroll(self, infer: Infer | None = None) -> Rollout:
        """Play T steps, with `infer` in the place of the own network where inference is central.

        The arrays are reused by the next call: copy or send them before it. After `InferenceLost` the next unroll
        begins where this one got to.
        """
        assert self._groups
        buffer, played = self._buffer, _Played()
        cpu, began = time.process_time(), time.perf_counter()
        for a in buffer.inputs:
            a[0] = a[-1]
        version = self._play(played) if infer is None else self._play_central(infer, played)
        total = time.perf_counter() - began
        seconds = {"act": played.acting, "step": total - played.acting, "cpu": time.process_time() - cpu}
        env_stats = [u for group in self._groups for u in group.vector.take_stats()]
        info = RolloutInfo(self.actor, version, played.episodes, env_stats, seconds)
        return Rollout(info, buffer._replace(final_observations=self._finals(played.final_observations)))

    def _play(self, played: "_Played") -> int:
        """T steps with the own network; the groups take turns. Returns the version of the weights."""
        buffer, steps = self._buffer, len(self._buffer.action)
        for group in self._groups:
            c, state = group.columns, group.state
            buffer.state.hidden[c], buffer.state.cell[c] = state.hidden.numpy(), state.cell.numpy()
        for t in range(steps):
            for group in self._groups:
                if t:
                    self._finish(group, t - 1, played)
                self._act(group, t, played)
        for group in self._groups:
            self._finish(group, steps - 1, played)
        return self._version

    def _play_central(self, infer: Infer, played: "_Played") -> int:
        """T steps of each group in a thread of its own: while one waits for its actions the others' games step.

        Returns the oldest version that acted; the logits are those of the weights that acted at each step.
        """
        buffer, versions = self._buffer, []

        def play(number: int, group: _Group) -> None:
            c = group.columns
            for t in range(len(buffer.action)):
                began, inputs = time.perf_counter(), row(buffer.inputs, t, c)
                try:
                    reply = infer(Request((self.actor, number), inputs, begins=t == 0))
                except InferenceLost:
                    for a in buffer.inputs:
                        a[-1, c] = a[t, c]
                    raise
                if reply.state is not None:
                    buffer.state.hidden[c], buffer.state.cell[c] = reply.state
                buffer.action[t, c], buffer.logits[t, c] = reply.action, reply.logits
                versions.append(reply.version)
                played.acting += (time.perf_counter() - began) / len(self._groups)
                group.vector.begin(buffer.action[t, c], row(buffer.inputs, t + 1, c))
                self._finish(group, t, played)

        with ThreadPoolExecutor(len(self._groups)) as pool:
            for future in [pool.submit(play, i, group) for i, group in enumerate(self._groups)]:
                future.result()
        return min(versions)

    def _act(self, group: "_Group", t: int, played: "_Played") -> None:
        """Choose actions for step t and have the games begin it."""
        began, buffer, c = time.perf_counter(), self._buffer, group.columns
        inputs = row(buffer.inputs, t, c)
        action, logits, _, group.state = self._agent.act(inputs, group.state, self._generator)
        buffer.action[t, c], buffer.logits[t, c] = action.numpy(), logits.numpy()
        played.acting += time.perf_counter() - began
        group.vector.begin(buffer.action[t, c], row(buffer.inputs, t + 1, c))

    def _finish(self, group: "_Group", t: int, played: "_Played") -> None:
        """Wait for the games to end step t."""
        buffer, c = self._buffer, group.columns
        result = group.vector.finish()
        buffer.reward[t, c] = result.reward
        buffer.terminated[t, c], buffer.truncated[t, c] = result.terminated, result.truncated
        played.episodes += [episode for _, episode in result.episodes]
        played.final_observations += [(t, c.start + e, observation) for e, observation in result.final_observations]

    def _finals(self, final_observations: list[tuple[int, int, Observation]]) -> FinalObservations:
        if not final_observations:
            return self._buffer.final_observations
        tokens = self._groups[0].vector.tokens
        return FinalObservations(
            time=np.array([t for t, _, _ in final_observations]),
            column=np.array([e for _, e, _ in final_observations]),
            frame=np.stack([o.frame for _, _, o in final_observations]),
            tokens=np.stack([tokens(o.instruction) for _, _, o in final_observations]),
        )

    def take_faults(self) -> list[tuple[int, Fault]]:
        """Level and fault, of an unroll that is not done; another thread may ask."""
        return [fault for group in list(self._groups) for fault in group.vector.take_faults()]

    def interrupt(self) -> None:
        """Have another thread that plays raise `RuntimeError` soon."""
        for group in list(self._groups):
            group.vector.interrupt()

    def close(self) -> None:
        """Free the environments, also where one fails to close."""
        groups, self._groups = self._groups, []
        with contextlib.ExitStack() as stack:
            for group in groups:
                stack.callback(group.vector.close)


@dataclass
class _Group:
    """Environments that are stepped together, and the core's state after what they have seen."""

    columns: slice
    vector: VectorEnv
    state: CoreState


@dataclass
class _Played:
    """What an unroll brings beside its arrays."""

    episodes: list[Episode] = field(default_factory=list)
    final_observations: list[tuple[int, int, Observation]] = field(default_factory=list)
    """Time, column and observation."""
    acting: float = 0.0
    """Seconds."""


def columns_of_groups(config: ActorsConfig, suite: Suite) -> list[slice]:
    """An actor's environments that are stepped together: two halves where one can wait while the other works."""
    return halves(config.envs) if suite.alternate or config.inference == "central" else [slice(0, config.envs)]


def halves(envs: int) -> list[slice]:
    """The columns of two groups of environments; of one where there is only one."""
    middle = (envs + 1) // 2
    return [c for c in (slice(0, middle), slice(middle, envs)) if c.start < c.stop]


def row(inputs: AgentInput, t: int, columns: slice) -> AgentInput:
    """Views [columns, ...] of step t."""
    return AgentInput(*(a[t, columns] for a in inputs))
