"""Optimisers and learning-rate schedules."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from impala_mi.config import LearnerConfig


class RMSPropTF(torch.optim.Optimizer):
    """RMSProp as TensorFlow 1 computes it, to which published learning rates and epsilons belong.

    The accumulator starts at 1 and epsilon is inside the root: ms <- d ms + (1 - d) g^2,
    mom <- momentum mom + lr g / sqrt(ms + epsilon), p <- p - mom.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        decay: float = 0.99,
        momentum: float = 0.0,
        eps: float = 0.1,
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if "square" not in self.state[p]:
                    self.state[p]["square"] = torch.ones_like(p)
                if group["momentum"] and "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
            squares = [self.state[p]["square"] for p in params]
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, grads, grads, value=1 - group["decay"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            if group["momentum"]:
                steps = [self.state[p]["momentum"] for p in params]
                torch._foreach_mul_(steps, group["momentum"])
                torch._foreach_addcdiv_(steps, grads, roots, value=group["lr"])
                torch._foreach_sub_(params, steps)
            else:
                torch._foreach_addcdiv_(params, grads, roots, value=-group["lr"])


def make_optimizer(config: LearnerConfig, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimiser over the trained parameters."""
    trained = [p for p in params if p.requires_grad]
    if config.optimizer == "adam":
        return torch.optim.Adam(trained, lr=config.learning_rate, eps=config.epsilon, foreach=True)
    return RMSPropTF(trained, config.learning_rate, config.rmsprop_decay, config.rmsprop_momentum, config.epsilon)


def learning_rate(config: LearnerConfig, env_frames: int, total_frames: int) -> float:
    """At `env_frames` of `total_frames`."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return config.learning_rate * max(0.0, 1 - env_frames / total_frames)
