"""Inputs and result of a loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from impala_mi.config import LearnerConfig
from impala_mi.losses.rewards import clip_rewards
from impala_mi.losses.vtrace import VTrace, vtrace
from impala_mi.types import Transitions


@dataclass(frozen=True)
class LossInputs:
    """Everything that a loss may read of a batch: T steps of B unrolls."""

    config: LearnerConfig
    batch: Transitions
    policy: Any
    """Distribution (`nn.distributions`) of the learner's policy at steps 0 to T - 1."""
    behaviour: Any
    """Distribution of the behaviour policy."""
    values: Float[Tensor, "T B"]
    """V(x_t) in the units of returns."""
    normalised_values: Float[Tensor, "T B"]
    """V(x_t) as the head computes it."""
    next_values: Float[Tensor, "T B"]
    """V of the observation that followed a_t, see `vtrace`; no gradient flows through it."""
    core: Float[Tensor, "T B H"]
    """Outputs of the core."""
    targets: VTrace
    """V-trace targets and advantages."""
    log_rhos: Float[Tensor, "T B"]
    """log pi(a_t | x_t) - log mu(a_t | x_t), without gradient."""
    log_pi: Float[Tensor, "T B"]
    """log pi(a_t | x_t)."""
    normaliser: Any
    """Value normaliser (`nn.value_normaliser`)."""

    @property
    def level(self) -> Tensor:
        """Level [T, B] of each step."""
        return self.batch.inputs.level[:-1]

    def reduce(self, per_step: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
        """Sum or mean over T and B, as `learner.loss_reduction` says."""
        return per_step.sum() if self.config.loss_reduction == "sum" else per_step.mean()

    def per_step(self, reduced: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Mean per step of a value from `reduce`, for metrics."""
        return reduced / self.log_pi.numel() if self.config.loss_reduction == "sum" else reduced


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and named scalars for the metrics."""

    total: Float[Tensor, ""]
    """Reduced by `LossInputs.reduce`, already weighted with its cost."""
    scalars: dict[str, Tensor] = field(default_factory=dict)
    """Metrics by name, detached: means over steps, so that those of shards can be averaged."""


LossFunction = Callable[[LossInputs], Loss]


def loss_inputs(
    config: LearnerConfig,
    batch: Transitions,
    policy: Any,
    behaviour: Any,
    values: Float[Tensor, "T B"],
    normalised_values: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    core: Float[Tensor, "T B H"],
    normaliser: Any,
) -> LossInputs:
    """`LossInputs` with the V-trace targets of a batch; see `LossInputs` for the arguments."""
    log_pi = policy.log_prob(batch.action)
    log_rhos = log_pi.detach() - behaviour.log_prob(batch.action)
    targets = vtrace(
        log_rhos,
        config.discount * (~batch.terminated).to(values.dtype),
        clip_rewards(batch.reward, config.reward_clipping),
        values.detach(),
        next_values.detach(),
        batch.terminated | batch.truncated,
        rho_clip=config.rho_clip,
        c_clip=config.c_clip,
        pg_rho_clip=config.pg_rho_clip,
        trace_lambda=config.trace_lambda,
    )
    return LossInputs(
        config, batch, policy, behaviour, values, normalised_values, next_values, core, targets, log_rhos, log_pi,
        normaliser,
    )  # fmt: skip
