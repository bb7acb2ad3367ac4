"""The rollout: environments and an agent to unrolls. Pure of Ray; see `types` for the alignment."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from impala_mi.config import ActorsConfig, Config
from impala_mi.envs.base import GiveUp, Observation, Suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.nn.agent import Agent
from impala_mi.nn.precision import choose_dtype
from impala_mi.types import AgentInput, Episode, Fault, Finals, Unroll, UnrollInfo, transitions_buffer

FIRST_SEGMENT = (0, 0, 0)
"""Of a run's first start: updates before it, starts before it, actors replaced in it."""


def deal_levels(config: ActorsConfig, num_levels: int) -> list[list[int]]:
    """Level index of each environment of each actor.

    With `per_level` an actor plays one level; otherwise all slots of all actors take the levels in turn.
    """
    actors = range(config.number(num_levels))
    if config.per_level is not None:
        return [[a % num_levels] * config.envs for a in actors]
    return [[(a * config.envs + e) % num_levels for e in range(config.envs)] for a in actors]


class Rollout:
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
        self._dealt = deal_levels(config.actors, len(suite.levels))
        self._levels = self._dealt[actor]
        self._buffer = transitions_buffer(
            suite.spaces, config.learner.unroll_length, envs, self._tokens, config.agent.core_width
        )
        self._generator = torch.Generator()
        self._vector: VectorEnv | None = None

    def start(self, segment: Sequence[int]) -> None:
        """Start every environment, or start it anew.

        `segment` is the run's updates before this start, its starts before, and the actors replaced in it: it gives
        the environments other seeds than they had. Raises what a level raises, `LevelBroken` above all.
        """
        self.close()
        root = [self._config.seed, *segment]
        slot, envs = self.actor * len(self._levels), len(self._levels)
        seeds = self._suite.deal_seeds(root, [k for levels in self._dealt for k in levels])[slot : slot + envs]
        sampling = np.random.SeedSequence(root, spawn_key=(2**31, self.actor))
        self._generator.manual_seed(int(sampling.generate_state(1, np.uint64)[0]) >> 1)
        # In the place of an actor that died the levels have worked before.
        give_up: GiveUp = "never" if segment[-1] else "first"
        self._vector = VectorEnv(self._suite, self._levels, seeds, self._tokens, give_up)
        self._state = self._agent.initial_state(len(self._levels))
        try:
            # Row T of the buffer is the present: the next unroll starts with it.
            self._vector.reset(row(self._buffer.inputs, -1))
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        """Of the weights that act; -1 before the first."""
        return self._version

    def load(self, weights: dict[str, np.ndarray], version: int) -> None:
        """Act with these weights from now on."""
        with torch.no_grad():
            for name, tensor in self._agent.state_dict().items():
                tensor.copy_(torch.from_numpy(np.array(weights[name])))
        self._version = version

    def unroll(self) -> Unroll:
        """Play T steps. The arrays are reused by the next call: copy or send them before it."""
        assert self._vector is not None
        buffer, inputs = self._buffer, self._buffer.inputs
        episodes: list[Episode] = []
        finals: list[tuple[int, int, Observation]] = []
        cpu, began, acting = time.process_time(), time.perf_counter(), 0.0
        for a in inputs:
            a[0] = a[-1]
        buffer.state.hidden[:], buffer.state.cell[:] = self._state.hidden.numpy(), self._state.cell.numpy()
        for t in range(len(buffer.action)):
            before = time.perf_counter()
            action, logits, _, self._state = self._agent.act(row(inputs, t), self._state, self._generator)
            buffer.action[t], buffer.logits[t] = action.numpy(), logits.numpy()
            acting += time.perf_counter() - before
            result = self._vector.step(buffer.action[t], row(inputs, t + 1))
            buffer.reward[t] = result.reward
            buffer.terminated[t], buffer.truncated[t] = result.terminated, result.truncated
            episodes += [episode for _, episode in result.episodes]
            finals += [(t, e, observation) for e, observation in result.finals]
        total = time.perf_counter() - began
        seconds = {"act": acting, "step": total - acting, "cpu": time.process_time() - cpu}
        info = UnrollInfo(self.actor, self._version, episodes, self._vector.take_upkeep(), seconds)
        return Unroll(info, buffer._replace(finals=self._finals(finals)))

    def _finals(self, finals: list[tuple[int, int, Observation]]) -> Finals:
        if not finals or self._vector is None:
            return self._buffer.finals
        return Finals(
            time=np.array([t for t, _, _ in finals]),
            column=np.array([e for _, e, _ in finals]),
            frame=np.stack([o.frame for _, _, o in finals]),
            tokens=np.stack([self._vector.tokens(o.instruction) for _, _, o in finals]),
        )

    def take_faults(self) -> list[tuple[int, Fault]]:
        """Level and fault, of an unroll that is not done; another thread may ask."""
        return self._vector.take_faults() if self._vector is not None else []

    def interrupt(self) -> None:
        """Have another thread that plays raise `RuntimeError` soon."""
        if self._vector is not None:
            self._vector.interrupt()

    def close(self) -> None:
        """Free the environments."""
        if self._vector is not None:
            self._vector.close()
            self._vector = None


def row(inputs: AgentInput, t: int) -> AgentInput:
    """Views [E, ...] of step t."""
    return AgentInput(*(a[t] for a in inputs))
