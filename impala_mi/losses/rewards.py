"""Reward clipping for the loss; scores are never clipped."""

import torch
from jaxtyping import Float
from torch import Tensor


def clip_rewards(rewards: Float[Tensor, "T B"], mode: str) -> Float[Tensor, "T B"]:
    """Clip rewards [T, B] as the mode says: `none`, `abs_one` ([-1, 1]) or `soft_asymmetric`.

    `soft_asymmetric` follows IMPALA's released code, 5 tanh(r/5) with the negative side times 0.3. The paper's
    figure D.1 states another formula, 0.3 min(tanh r, 0) + 5 max(tanh r, 0).
    """
    if mode == "none":
        return rewards
    if mode == "abs_one":
        return rewards.clamp(-1, 1)
    if mode == "soft_asymmetric":
        soft = 5 * torch.tanh(rewards / 5)
        return torch.where(rewards < 0, 0.3 * soft, soft)
    raise ValueError(f"unknown mode of reward clipping {mode!r}")
