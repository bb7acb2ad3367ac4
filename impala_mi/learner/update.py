"""One step of learning: a batch of unrolls to gradients, new weights and metrics."""

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
from impala_mi.learner.distributed import GradientSum
from impala_mi.learner.optim import Rate, flatten, learning_rate, make_optimizer, make_rule
from impala_mi.losses.actor_critic import Loss, actor_critic_loss
from impala_mi.nn.agent import Agent, AgentOutput
from impala_mi.nn.core import LSTMCore
from impala_mi.nn.precision import choose_dtype
from impala_mi.types import AgentInput, Instructions, Spaces, Transitions


@dataclass
class Counters:
    """How far training has come; all of it survives a resume."""

    updates: int = 0
    """Attempted, skipped ones too."""
    version: int = 0
    """Updates applied; the version of the weights."""
    agent_steps: int = 0
    env_frames: int = 0
    """agent_steps times the action repeat."""
    skipped: int = 0
    """Updates left out because the loss or a gradient was not finite."""
    skipped_in_a_row: int = 0
    schedule_ahead: int = 0
    """Agent steps by which schedules are ahead: those of the member of a population that the weights came from."""


@dataclass(frozen=True)
class PendingUpdate:
    """An update that the device may still be at."""

    outcome: Float[Tensor, " 6"]
    """On the device: the loss, its three parts, the mean of rho, the norm of the gradient."""
    rate: float
    agent_steps: int
    seconds: dict[str, float]
    """Wall time by stage; on a GPU, of the host; none with `cuda_graphs`."""


def next_values(agent: Agent, out: AgentOutput, batch: Transitions) -> Float[Tensor, "T B"]:
    """V of what truly followed each action: of the final observation where an episode was cut off; no gradient."""
    final_observations, values = batch.final_observations, out.value.detach()
    following = torch.cat([values[1:], values[:1]])  # a row behind the last takes what is padded
    if len(final_observations.time):
        # Indices in the host's memory would have the host wait for a GPU.
        t, b = (
            index.to(values.device, non_blocking=True)
            for index in (final_observations.time, final_observations.column)
        )
        following[t, b] = final_values(agent, out, batch, t, b)
    return following[:-1]


def final_values(
    agent: Agent, out: AgentOutput, batch: Transitions, t: Int[Tensor, " F"], b: Int[Tensor, " F"]
) -> Float[Tensor, " F"]:
    """V of final observations, of steps t and columns b, from the core's state at the episode's end."""
    final_observations, last = batch.final_observations, len(batch.action) - 1
    t = t.clamp(max=last)  # step T, where there is padding, has no action
    inputs = AgentInput(
        frame=final_observations.frame.unsqueeze(0),
        tokens=final_observations.tokens
        if isinstance(final_observations.tokens, Instructions)
        else final_observations.tokens.unsqueeze(0),
        last_action=batch.action[t, b].unsqueeze(0),
        last_reward=batch.reward[t, b].unsqueeze(0),
        first=torch.zeros_like(t, dtype=torch.bool).unsqueeze(0),
        level=batch.inputs.level[t, b].unsqueeze(0),
    )
    with torch.no_grad():
        # The episode after it starts at t + 1, so the core has kept its state before that reset.
        return agent(
            inputs, out.before(final_observations.time.clamp(max=last) + 1, final_observations.column)
        ).value.squeeze(0)


class _Learnt(NamedTuple):
    """What a batch, or a part of it, teaches."""

    gradient: Float[Tensor, " P"]
    outcome: Float[Tensor, " 5"]
    forward_s: float
    backward_s: float


class Learner:
    """The agent, its optimiser and the counters on one device.

    Args:
        config: the run's configuration.
        spaces: of the suite.
        action_repeat: env frames in an agent step.
        device: where the agent lives.
        ranks: that learn together, this process being one of them (`distributed.join`); each is given an equal
            part of every batch, and all come to the same weights.
        threads: of a CPU, which learn from parts of every batch at once; ranks have their parts already.
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
        self._begun_steps = 0  # of agents, those of updates that are not finished too
        self._sum = (
            GradientSum(self.optimizer.params, len(list(self.agent.torso.parameters()))) if ranks > 1 else None
        )
        alone = device.type == "cpu" and ranks == 1
        self._team = make_shard_pool(config.learner.batch_size, threads) if alone else None
        self.pad_to_buckets = config.learner.cuda_graphs and device.type == "cuda"
        """Whether batches are to be `batching.even`."""
        self._graphs = self._make_graphs()
        if isinstance(self.agent.core, LSTMCore):
            self.agent.core.fixed_work = self.pad_to_buckets

    def _make_graphs(self) -> Graphs | None:
        return (
            Graphs(lambda *batch: self._compute(*batch)[0], self.device, CudaRecorder())
            if self.pad_to_buckets
            else None
        )

    def change(self, settings: LearnerConfig) -> None:
        """Go on with other rates, costs, clips and discounts, between updates."""
        self.config = self.config.model_copy(update={"learner": settings})
        self.optimizer.rule = make_rule(settings)
        self._graphs = self._make_graphs()  # recorded updates hold the old ones

    def update(self, batch: Transitions) -> dict[str, float]:
        """Learn from a batch [T+1, B, ...] that `to_device` brought; returns metrics.

        An update whose loss or gradient is not finite is skipped and counted; `max_bad_updates` of them in a row
        raise `TrainingError`.
        """
        return self.finish(self.begin(batch))

    def begin(self, batch: Transitions) -> "PendingUpdate":
        """Give the device its work; nothing is read back from it, and nobody waits.

        Another update may begin before this one is finished; they finish in the order in which they began.
        """
        steps = self._begun_steps + self.counters.schedule_ahead
        rate = learning_rate(self.config.learner, steps * self.action_repeat, self.config.train.env_frames)
        if self._graphs is None:
            outcome, seconds = self._compute(batch, rate)
        else:
            outcome, seconds = self._graphs(batch, rate), {}
        steps = batch.action.numel() * (1 if self._sum is None else self._sum.size)
        self._begun_steps += steps
        return PendingUpdate(outcome, rate, steps, seconds)

    def _compute(self, batch: Transitions, rate: Rate) -> tuple[Float[Tensor, " 6"], dict[str, float]]:
        """An update: what comes of it, and the host's time for its stages."""
        config = self.config.learner
        learnt = self._learn(batch) if self._team is None else self._learn_in_parts(batch)
        gradient, began = learnt.gradient, time.perf_counter()
        norm = torch.linalg.vector_norm(gradient)
        if config.max_grad_norm is not None:
            gradient *= (config.max_grad_norm / (norm + 1e-6)).clamp(max=1)
        good = learnt.outcome[0].isfinite() & norm.isfinite()
        if self.device.type != "cpu":
            self.optimizer.step(gradient, rate, good)
        elif good:  # free to know here, and cheaper than to choose in every number
            self.optimizer.step(gradient, rate)
        seconds = {
            "time/forward_s": learnt.forward_s,
            "time/backward_s": learnt.backward_s,
            "time/optimizer_s": time.perf_counter() - began,
        }
        return torch.cat([learnt.outcome, norm.unsqueeze(0)]), seconds

    def _loss(self, batch: Transitions) -> Loss:
        # Without autocast's cache of cast weights: threads would share it, and what is cast here without gradients.
        bfloat16 = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=bfloat16, cache_enabled=False):
            out = self.agent(batch.inputs, batch.state)
            following = next_values(self.agent, out, batch)
        return actor_critic_loss(
            self.config.learner,
            out.logits[:-1],
            out.value[:-1],
            following,
            batch.action,
            batch.logits,
            batch.reward,
            batch.terminated,
            batch.truncated,
        )

    def _learn(self, batch: Transitions) -> "_Learnt":
        """From a whole batch, and with other ranks from theirs."""
        began = time.perf_counter()
        loss = self._loss(batch)
        outcome = self._outcome(loss, batch.action.numel())
        if self._sum is not None:
            self._sum.expect()
        forward_done = time.perf_counter()
        self.optimizer.zero_grad()
        loss.total.backward()
        if self._sum is None:
            gradient = self.optimizer.gradient()
        else:
            gradient, outcome = self._sum.take(outcome)
            outcome /= self._sum.size
            if self._mean:
                gradient /= self._sum.size
        return _Learnt(gradient, outcome, forward_done - began, time.perf_counter() - forward_done)

    def _learn_in_parts(self, batch: Transitions) -> "_Learnt":
        """The same from parts of a batch, each in a thread of its own."""
        assert self._team is not None
        width = batch.action.shape[1]

        def learn(part: Transitions) -> _Learnt:
            began, share = time.perf_counter(), part.action.shape[1] / width
            loss = self._loss(part)
            outcome = self._outcome(loss, part.action.numel()) * share
            forward_done = time.perf_counter()
            total = loss.total * share if self._mean else loss.total
            gradients = torch.autograd.grad(total, self.optimizer.params, allow_unused=True)
            gradient = flatten(gradients, self.optimizer.params)
            return _Learnt(gradient, outcome, forward_done - began, time.perf_counter() - forward_done)

        parts = self._team.map(learn, batch)
        gradient, outcome = parts[0].gradient, parts[0].outcome
        for part in parts[1:]:  # in order, so that the sum is the same every time
            gradient += part.gradient
            outcome += part.outcome
        return _Learnt(gradient, outcome, max(p.forward_s for p in parts), max(p.backward_s for p in parts))

    @property
    def _mean(self) -> bool:
        return self.config.learner.loss_reduction == "mean"

    def _outcome(self, loss: Loss, steps: int) -> Float[Tensor, " 5"]:
        """The loss and its parts, a step, and the mean of rho."""
        parts = torch.stack([loss.total, loss.policy, loss.value, loss.entropy]).detach()
        return torch.cat([parts if self._mean else parts / steps, loss.rho.unsqueeze(0)])

    def finish(self, began: "PendingUpdate") -> dict[str, float]:
        """Wait for an update, count it and return its metrics; see `update`."""
        config, counters = self.config.learner, self.counters
        total, policy, value, entropy, rho, grad_norm = began.outcome.tolist()
        counters.updates += 1
        counters.agent_steps += began.agent_steps
        counters.env_frames = counters.agent_steps * self.action_repeat
        if np.isfinite([total, grad_norm]).all():  # as the device found
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
            "loss/total": total,
            "loss/policy": policy,
            "loss/value": value,
            "loss/entropy": entropy,
            "learner/grad_norm": grad_norm,
            "learner/rho_mean": rho,
            "learner/learning_rate": began.rate,
            "learner/skipped_updates": float(counters.skipped),
            **began.seconds,
        }

    def weights(self) -> dict[str, np.ndarray]:
        """A copy of the agent's weights as NumPy arrays."""
        return {k: v.detach().cpu().numpy().copy() for k, v in self.agent.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint needs of the learner; plain containers of tensors and numbers."""
        return {
            "agent": {k: v.detach().cpu().clone() for k, v in self.agent.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "counters": asdict(self.counters),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.agent.load_state_dict(state["agent"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.counters = Counters(**state["counters"] | {"skipped_in_a_row": 0})
        self._begun_steps = self.counters.agent_steps
        torch.set_rng_state(state["torch_rng"])
