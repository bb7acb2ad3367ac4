"""The actor-critic loss with V-trace (Espeholt et al. 2018, section 4.2)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from impala_mi.config import LearnerConfig
from impala_mi.losses.rewards import clip_rewards
from impala_mi.losses.vtrace import vtrace


class Loss(NamedTuple):
    """The loss and its parts; each part is reduced as the total and unweighted."""

    total: Float[Tensor, ""]
    policy: Float[Tensor, ""]
    value: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    """Of the policy: minus what is minimised."""
    rho: Float[Tensor, ""]
    """Mean of the clipped pi/mu: 1 means on-policy."""


def actor_critic_loss(
    config: LearnerConfig,
    logits: Float[Tensor, "T B A"],
    values: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    actions: Int[Tensor, "T B"],
    behaviour_logits: Float[Tensor, "T B A"],
    rewards: Float[Tensor, "T B"],
    terminated: Bool[Tensor, "T B"],
    truncated: Bool[Tensor, "T B"],
) -> Loss:
    """Policy gradient + value_cost * 1/2 squared error - entropy_cost * entropy, summed (or averaged) over T, B.

    See `vtrace` for the alignment and for `next_values`, through which no gradient flows.
    """
    log_pi = torch.log_softmax(logits, -1)
    log_mu = torch.log_softmax(behaviour_logits, -1)
    taken = actions.unsqueeze(-1)
    log_pi_a = log_pi.gather(-1, taken).squeeze(-1)
    log_rhos = log_pi_a.detach() - log_mu.gather(-1, taken).squeeze(-1)
    targets = vtrace(
        log_rhos,
        config.discount * (~terminated).to(values.dtype),
        clip_rewards(rewards, config.reward_clipping),
        values.detach(),
        next_values.detach(),
        terminated | truncated,
        rho_clip=config.rho_clip,
        c_clip=config.c_clip,
        pg_rho_clip=config.pg_rho_clip,
        trace_lambda=config.trace_lambda,
    )
    reduce = torch.sum if config.loss_reduction == "sum" else torch.mean
    policy = reduce(-log_pi_a * targets.advantages)
    value = reduce(0.5 * (targets.vs - values).square())
    entropy = reduce(-(log_pi.exp() * log_pi).sum(-1))
    total = policy + config.value_cost * value - config.entropy_cost * entropy
    return Loss(total, policy, value, entropy, log_rhos.exp().clamp(max=config.rho_clip).mean())
