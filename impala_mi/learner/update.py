"""One update: a batch of unrolls to gradients, new weights and metrics.

`next_values` and `final_values` compute the bootstrap values, those of truncated episodes included.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from impala_mi.config import Config, LearnerConfig
from impala_mi.errors import TrainingError
from impala_mi.learner.cuda_graphs import CudaRecorder, Graphs
from impala_mi.learner.data_parallel import make_shard_pool
from impala_mi.learner.optim import Rate, flatten, learning_rate, make_optimizer, make_rule
from impala_mi.losses import Loss, loss_inputs, total_loss
from impala_mi.nn.agent import Agent, AgentOutput
from impala_mi.nn.core import LSTMCore
from impala_mi.nn.precision import choose_dtype
from impala_mi.types import AgentInput, Instructions, Spaces, Transitions


@dataclass
class Counters:
    """Progress of training; all of it survives a resume."""

    updates: int = 0
    """Attempted updates, skipped ones included."""
    version: int = 0
    """Applied updates: the version of the weights."""
    agent_steps: int = 0
    env_frames: int = 0
    """agent_steps times the action repeat."""
    skipped: int = 0
    """Updates skipped because the loss or a gradient was not finite."""
    skipped_in_a_row: int = 0
    schedule_ahead: int = 0
    """Agent steps added for schedules: the lead of the population member that the weights were copied from."""


class UpdateStats(NamedTuple):
    """Named scalars of an update, which lie on the device until they are read."""

    names: tuple[str, ...]
    """Metric names."""
    values: Float[Tensor, " N"]


@dataclass(frozen=True)
class PendingUpdate:
    """An update that the device may still be computing."""

    stats: UpdateStats
    """Scalars of the loss and of the value normaliser, and `learner/grad_norm`."""
    rate: float
    """Learning rate."""
    agent_steps: int
    """Agent steps of the batch, those of other ranks included."""
    seconds: dict[str, float]
    """Wall time of the host by stage; empty if the update is a replayed CUDA graph."""


def next_values(agent: Agent, out: AgentOutput, batch: Transitions) -> Float[Tensor, "T B"]:
    """V of the observation that followed each action, without gradient.

    That is the next row or, where an episode was truncated, its final observation.
    """
    finals, values = batch.final_observations, out.value.detach()
    following = torch.cat([values[1:], values[:1]])  # row T takes the values of padding and is dropped
    if len(finals.time):
        # An index in host memory would make the host wait for a GPU.
        t, b = (index.to(values.device, non_blocking=True) for index in (finals.time, finals.column))
        following[t, b] = final_values(agent, out, batch, t, b)
    return following[:-1]


def final_values(
    agent: Agent, out: AgentOutput, batch: Transitions, t: Int[Tensor, " F"], b: Int[Tensor, " F"]
) -> Float[Tensor, " F"]:
    """V of the final observations of steps t and columns b, from the recurrent state at the end of the episode."""
    finals, last = batch.final_observations, len(batch.action) - 1
    t = t.clamp(max=last)  # padding has step T, which has no action
    tokens = finals.tokens if isinstance(finals.tokens, Instructions) else finals.tokens.unsqueeze(0)
    inputs = AgentInput(
        frame=finals.frame.unsqueeze(0),
        tokens=tokens,
        last_action=batch.action[t, b].unsqueeze(0),
        last_reward=batch.reward[t, b].unsqueeze(0),
        first=torch.zeros_like(t, dtype=torch.bool).unsqueeze(0),
        level=batch.inputs.level[t, b].unsqueeze(0),
    )
    with torch.no_grad():
        # The next episode starts at t + 1, where the core kept the state from before its reset.
        state = out.before(finals.time.clamp(max=last) + 1, finals.column)
        return agent(inputs, state).value.squeeze(0)


class _Gradient(NamedTuple):
    """Gradient and statistics of a batch, or of a shard of it."""

    gradient: Float[Tensor, " P"]
    scalars: UpdateStats
    returns: Float[Tensor, "T B"]
    """V-trace value targets."""
    forward_s: float
    backward_s: float


class Learner:
    """The agent, its optimiser and the counters on one device.

    Args:
        config: the run's configuration.
        spaces: spaces of the suite.
        action_repeat: env frames in an agent step.
        device: device of the agent.
        ranks: number of ranks that learn together, this process being one of them (`distributed.join`). Each gets
            an equal part of every batch; all end with the same weights.
        threads: threads of a CPU; without other ranks they learn from shards of each batch in parallel.
    """

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        action_repeat: int,
        device: torch.device,
        ranks: int = 1,
        threads: int = 1,
    ) -> None:
        torch.manual_seed(config.seed)
        if config.train.deterministic != torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(config.train.deterministic)  # loads PyTorch's compiler
        self.config, self.device = config, device
        self.dtype = choose_dtype(config.learner.precision, config.agent.torso, device)
        self.action_repeat = action_repeat
        self.agent = Agent(config.agent, spaces).to(device)
        self.optimizer = make_optimizer(config.learner, self.agent.parameters())
        self.counters = Counters()
        self._steps_begun = 0  # agent steps of all updates, those in flight included
        self._sum = None
        if ranks > 1:
            from impala_mi.learner.distributed import GradientSum

            self._sum = GradientSum(self.optimizer.params, len(list(self.agent.torso.parameters())))
        single = device.type == "cpu" and ranks == 1
        self._shards = make_shard_pool(config.learner.batch_size, threads) if single else None
        self.pad_to_buckets = config.learner.cuda_graphs and device.type == "cuda"
        """Whether batches must be padded by `batching.pad_to_buckets`."""
        self._graphs = self._make_graphs()
        if isinstance(self.agent.core, LSTMCore):
            self.agent.core.fixed_work = self.pad_to_buckets

    def _make_graphs(self) -> Graphs | None:
        if not self.pad_to_buckets:
            return None
        return Graphs(lambda batch, rate: self._compute(batch, rate)[0], self.device, CudaRecorder())

    def set_hyperparameters(self, config: LearnerConfig) -> None:
        """Continue with other learning rates, costs, clips and discounts; call between updates."""
        self.config = self.config.model_copy(update={"learner": config})
        self.optimizer.rule = make_rule(config)
        self._graphs = self._make_graphs()  # recorded updates hold the old values

    def update(self, batch: Transitions) -> dict[str, float]:
        """Learn from a batch [T+1, B, ...] that `to_device` moved; returns metrics.

        An update whose loss or gradient is not finite is skipped and counted; `max_bad_updates` of them in a row
        raise `TrainingError`.
        """
        return self.finish(self.begin(batch))

    def begin(self, batch: Transitions) -> PendingUpdate:
        """Queue the work of an update on the device, without reading anything back or waiting.

        More updates may begin before this one is finished; they finish in the order in which they began.
        """
        steps = self._steps_begun + self.counters.schedule_ahead
        rate = learning_rate(self.config.learner, steps * self.action_repeat, self.config.train.env_frames)
        if self._graphs is None:
            stats, seconds = self._compute(batch, rate)
        else:
            stats, seconds = self._graphs(batch, rate), {}
        steps = math.prod(batch.reward.shape) * (1 if self._sum is None else self._sum.size)
        self._steps_begun += steps
        return PendingUpdate(stats, rate, steps, seconds)

    def _compute(self, batch: Transitions, rate: Rate) -> tuple[UpdateStats, dict[str, float]]:
        """Compute and apply an update; returns its scalars and the host's time by stage."""
        config = self.config.learner
        result = self._gradient(batch) if self._shards is None else self._sharded_gradient(batch)
        gradient, start = result.gradient, time.perf_counter()
        norm = torch.linalg.vector_norm(gradient)
        if config.max_grad_norm is not None:
            gradient *= (config.max_grad_norm / (norm + 1e-6)).clamp(max=1)
        names, values = result.scalars
        finite = values[names.index("loss/total")].isfinite() & norm.isfinite()
        if self.device.type != "cpu":
            self.optimizer.step(gradient, rate, finite)
        elif finite:  # reading it costs nothing on a CPU, and a branch is cheaper than a mask
            self.optimizer.step(gradient, rate)
        normaliser = self.agent.normaliser
        normaliser.update(result.returns, batch.inputs.level[:-1], self.agent.head.value, finite)
        own = {"learner/grad_norm": norm} | normaliser.metrics()
        seconds = {
            "time/forward_s": result.forward_s,
            "time/backward_s": result.backward_s,
            "time/optimizer_s": time.perf_counter() - start,
        }
        return UpdateStats((*names, *own), torch.cat([values, torch.stack([*own.values()])])), seconds

    def loss(self, batch: Transitions) -> tuple[Loss, Float[Tensor, "T B"]]:
        """Loss of a batch and the V-trace value targets."""
        # Autocast's cache of cast weights is off: threads would share it, with weights cast without gradients.
        bfloat16 = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=bfloat16, cache_enabled=False):
            out = self.agent(batch.inputs, batch.state)
            following = next_values(self.agent, out, batch)
        inputs = loss_inputs(
            self.config.learner,
            batch,
            self.agent.distribution(out.logits[:-1]),
            self.agent.distribution(batch.logits),
            out.value[:-1],
            out.normalised_value[:-1],
            following,
            out.core[:-1],
            self.agent.normaliser,
        )
        return total_loss(inputs), inputs.targets.vs

    def _gradient(self, batch: Transitions) -> _Gradient:
        """Gradient of this rank's batch, summed over the ranks if there are several."""
        start = time.perf_counter()
        loss, returns = self.loss(batch)
        names, values = _stats(loss)
        if self._sum is not None:
            self._sum.expect()
        forward_done = time.perf_counter()
        self.optimizer.zero_grad()
        loss.total.backward()
        if self._sum is None:
            gradient = self.optimizer.gradient()
        else:
            gradient, values = self._sum.take(values)
            values /= self._sum.size
            if self._mean:
                gradient /= self._sum.size
        seconds = forward_done - start, time.perf_counter() - forward_done
        return _Gradient(gradient, UpdateStats(names, values), returns, *seconds)

    def _sharded_gradient(self, batch: Transitions) -> _Gradient:
        """Gradient of a batch, computed from shards in a thread each."""
        assert self._shards is not None
        width = batch.reward.shape[1]

        def shard_gradient(shard: Transitions) -> _Gradient:
            start, share = time.perf_counter(), shard.reward.shape[1] / width
            loss, returns = self.loss(shard)
            names, values = _stats(loss)
            forward_done = time.perf_counter()
            total = loss.total * share if self._mean else loss.total
            gradients = torch.autograd.grad(total, self.optimizer.params, allow_unused=True)
            gradient = flatten(gradients, self.optimizer.params)
            seconds = forward_done - start, time.perf_counter() - forward_done
            return _Gradient(gradient, UpdateStats(names, values * share), returns, *seconds)

        shards = self._shards.map(shard_gradient, batch)
        gradient, (names, values) = shards[0].gradient, shards[0].scalars
        for shard in shards[1:]:  # in a fixed order, so that the sum is the same every time
            gradient += shard.gradient
            values += shard.scalars.values
        returns = torch.cat([shard.returns for shard in shards], 1)
        forward_s, backward_s = max(s.forward_s for s in shards), max(s.backward_s for s in shards)
        return _Gradient(gradient, UpdateStats(names, values), returns, forward_s, backward_s)

    @property
    def _mean(self) -> bool:
        return self.config.learner.loss_reduction == "mean"

    def finish(self, pending: PendingUpdate) -> dict[str, float]:
        """Wait for an update, count it and return its metrics; see `update`."""
        config, counters = self.config.learner, self.counters
        metrics = dict(zip(pending.stats.names, pending.stats.values.tolist(), strict=True))
        counters.updates += 1
        counters.agent_steps += pending.agent_steps
        counters.env_frames = counters.agent_steps * self.action_repeat
        total, grad_norm = metrics["loss/total"], metrics["learner/grad_norm"]
        if np.isfinite([total, grad_norm]).all():  # the same condition as on the device
            counters.version += 1
            counters.skipped_in_a_row = 0
        else:
            counters.skipped += 1
            counters.skipped_in_a_row += 1
        if counters.skipped_in_a_row >= config.max_bad_updates:
            raise TrainingError(
                f"{counters.skipped_in_a_row} updates in a row had a loss or gradient that is not finite "
                f"(loss {total}, gradient norm {grad_norm}); lower learner.learning_rate or set "
                "learner.max_grad_norm"
            )
        return {
            **metrics,
            "learner/learning_rate": pending.rate,
            "learner/skipped_updates": float(counters.skipped),
            **pending.seconds,
        }

    def weights(self) -> dict[str, np.ndarray]:
        """Copy of the agent's weights as NumPy arrays."""
        return {k: v.detach().cpu().numpy().copy() for k, v in self.agent.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """The learner's part of a checkpoint: plain containers of tensors and numbers."""
        return {
            "agent": {k: v.detach().cpu().clone() for k, v in self.agent.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "counters": asdict(self.counters),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.agent.load_state_dict(state["agent"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.counters = Counters(**state["counters"] | {"skipped_in_a_row": 0})
        self._steps_begun = self.counters.agent_steps
        torch.set_rng_state(state["torch_rng"])


def _stats(loss: Loss) -> UpdateStats:
    """Scalars of a loss as one vector."""
    return UpdateStats(tuple(loss.scalars), torch.stack(list(loss.scalars.values())))
