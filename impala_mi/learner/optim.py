"""Optimisers and learning-rate schedules.

Plain functions of lists of tensors, not `torch.optim.Optimizer`: that class loads PyTorch's compiler, 75 MB of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from impala_mi.config import LearnerConfig


class Rule(Protocol):
    """How gradients change parameters."""

    @property
    def slots(self) -> tuple[tuple[str, float], ...]:
        """Tensors kept for each parameter, and what they begin as."""
        ...

    def __call__(
        self, params: list[Tensor], grads: list[Tensor], slots: dict[str, list[Tensor]], rate: float, steps: int
    ) -> None:
        """Change `params` and `slots` in place; `steps` counts this one."""
        ...


@dataclass(frozen=True)
class RMSPropTF:
    """RMSProp as TensorFlow 1 computes it, to which published learning rates and epsilons belong.

    The accumulator starts at 1 and epsilon is inside the root: ms <- d ms + (1 - d) g^2,
    mom <- momentum mom + lr g / sqrt(ms + epsilon), p <- p - mom.
    """

    decay: float = 0.99
    momentum: float = 0.0
    eps: float = 0.1

    @property
    def slots(self) -> tuple[tuple[str, float], ...]:
        """See `Rule`."""
        return (("square", 1.0), ("momentum", 0.0)) if self.momentum else (("square", 1.0),)

    def __call__(
        self, params: list[Tensor], grads: list[Tensor], slots: dict[str, list[Tensor]], rate: float, steps: int
    ) -> None:
        """See `Rule`."""
        squares = slots["square"]
        torch._foreach_mul_(squares, self.decay)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - self.decay)
        roots = torch._foreach_add(squares, self.eps)
        torch._foreach_sqrt_(roots)
        if self.momentum:
            moving = slots["momentum"]
            torch._foreach_mul_(moving, self.momentum)
            torch._foreach_addcdiv_(moving, grads, roots, value=rate)
            torch._foreach_sub_(params, moving)
        else:
            torch._foreach_addcdiv_(params, grads, roots, value=-rate)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1); epsilon is outside the root."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots = (("mean", 0.0), ("square", 0.0))

    def __call__(
        self, params: list[Tensor], grads: list[Tensor], slots: dict[str, list[Tensor]], rate: float, steps: int
    ) -> None:
        """See `Rule`."""
        means, squares = slots["mean"], slots["square"]
        torch._foreach_lerp_(means, grads, 1 - self.beta1)
        torch._foreach_mul_(squares, self.beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - self.beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - self.beta2**steps) ** 0.5)
        torch._foreach_add_(roots, self.eps)
        torch._foreach_addcdiv_(params, means, roots, value=-rate / (1 - self.beta1**steps))


@dataclass
class Optimizer:
    """A rule, the trained parameters and what the rule keeps of them."""

    rule: Rule
    params: list[nn.Parameter]
    slots: dict[str, list[Tensor]] = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.slots = {
            name: [torch.full_like(p, begin, requires_grad=False) for p in self.params]
            for name, begin in self.rule.slots
        }

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Change every parameter that has a gradient."""
        self.steps += 1
        chosen = [i for i, p in enumerate(self.params) if p.grad is not None]
        slots = {name: [tensors[i] for i in chosen] for name, tensors in self.slots.items()}
        grads: list[Tensor] = [g for p in self.params if (g := p.grad) is not None]
        if not grads:
            return
        self.rule([self.params[i].data for i in chosen], grads, slots, rate, self.steps)

    def state_dict(self) -> dict[str, Any]:
        """A copy; plain containers of tensors and numbers."""
        slots = {name: [t.detach().cpu().clone() for t in tensors] for name, tensors in self.slots.items()}
        return {"steps": self.steps, "slots": slots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of an optimiser of the same parameters; a slot that is new there begins."""
        self.steps = state["steps"]
        for name, tensors in self.slots.items():
            for mine, theirs in zip(tensors, state["slots"].get(name, tensors), strict=True):
                if mine.shape != theirs.shape:
                    raise ValueError(f"{name} of shape {list(theirs.shape)}, not {list(mine.shape)}")
                mine.copy_(theirs)


def make_optimizer(config: LearnerConfig, params: Iterable[nn.Parameter]) -> Optimizer:
    """The configured optimiser over the trained parameters."""
    rule: Rule = (
        Adam(eps=config.epsilon)
        if config.optimizer == "adam"
        else RMSPropTF(config.rmsprop_decay, config.rmsprop_momentum, config.epsilon)
    )
    return Optimizer(rule, [p for p in params if p.requires_grad])


def learning_rate(config: LearnerConfig, env_frames: int, total_frames: int) -> float:
    """At `env_frames` of `total_frames`."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return config.learning_rate * max(0.0, 1 - env_frames / total_frames)
