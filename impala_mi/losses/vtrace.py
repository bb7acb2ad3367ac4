"""V-trace (Espeholt et al. 2018, arXiv 1802.01561, section 4.1)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class VTrace(NamedTuple):
    """V-trace targets and advantages, without gradients."""

    vs: Float[Tensor, "T B"]
    """v_s, target of the value of x_s."""
    advantages: Float[Tensor, "T B"]
    """rho_s (r_s + gamma_s v_{s+1} - V(x_s)), factor of the gradient of log pi(a_s | x_s)."""


@torch.no_grad()
def vtrace(
    log_rhos: Float[Tensor, "T B"],
    discounts: Float[Tensor, "T B"],
    rewards: Float[Tensor, "T B"],
    values: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    ends: Bool[Tensor, "T B"],
    *,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    pg_rho_clip: float = 1.0,
    trace_lambda: float = 1.0,
) -> VTrace:
    """V-trace targets v_s and policy-gradient advantages.

    With rho_t = min(rho_clip, pi/mu), c_t = trace_lambda * min(c_clip, pi/mu) and
    delta_t = rho_t (r_t + gamma_t V(x'_{t+1}) - V(x_t)):

        v_s = V(x_s) + sum_{t >= s} (prod_{s <= i < t} gamma_i c_i) delta_t

    where the sum stops at the end of the episode. x'_{t+1} is the observation that followed a_t in its own episode:
    the next one or, if the episode was truncated at t, its final observation.

    Args:
        log_rhos: log pi(a_t | x_t) - log mu(a_t | x_t).
        discounts: gamma_t, 0 where the episode terminated at t.
        rewards: r_t.
        values: V(x_t).
        next_values: V(x'_{t+1}); the last row is the bootstrap value. Ignored where gamma_t is 0.
        ends: whether the episode ended at t, terminated or truncated; nothing of row t + 1 flows back to row t.
        rho_clip: bound of rho in v_s; it determines the fixed point.
        c_clip: bound of c; it determines the speed of contraction.
        pg_rho_clip: bound of rho in the advantages.
        trace_lambda: lambda of Remark 2; a factor of c only.

    Returns:
        Targets and advantages, [T, B]. The advantage's v_{s+1} is V(x'_{s+1}) at an end and in the last row.
    """
    ratios = log_rhos.exp()
    rhos = ratios.clamp(max=rho_clip)
    # Factor of delta_{t+1} in row t; 0 across the end of an episode.
    carries = discounts * trace_lambda * ratios.clamp(max=c_clip) * ~ends
    deltas = rhos * (rewards + discounts * next_values - values)
    vs = values + _carried_back(deltas, carries)
    next_vs = torch.where(ends[:-1], next_values[:-1], vs[1:])
    q = rewards + discounts * torch.cat([next_vs, next_values[-1:]])
    return VTrace(vs, ratios.clamp(max=pg_rho_clip) * (q - values))


def _carried_back(deltas: Float[Tensor, "T B"], carries: Float[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    """Solution of y_t = delta_t + carry_t y_{t+1}, computed in log2(T) rounds instead of T steps.

    After each round delta_t holds the terms of `reach` steps, and carry_t the factor of the terms behind them.
    """
    reach, largest = 1, torch.finfo(carries.dtype).max
    while reach < len(deltas):
        deltas = torch.cat([deltas[:-reach].addcmul(carries[:-reach], deltas[reach:]), deltas[-reach:]])
        products = (carries[:-reach] * carries[reach:]).clamp(max=largest)  # inf * 0 is NaN
        carries = torch.cat([products, torch.zeros_like(carries[-reach:])])
        reach *= 2
    return deltas
