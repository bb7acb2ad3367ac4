"""Optimisers and learning-rate schedules.

Plain functions of one flat vector, not `torch.optim.Optimizer`: that class loads PyTorch's compiler, 75 MB of it.
Nothing is read back from the device, so that a GPU never waits for the host.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from impala_mi.config import LearnerConfig

Slots = dict[str, Tensor]
"""Statistics of every parameter that a rule keeps, by name: [P] each."""

Rate = float | Float[Tensor, ""]
"""Learning rate, a number or a scalar on the device."""


class Rule(Protocol):
    """Update rule: how gradients change parameters."""

    @property
    def slots(self) -> tuple[tuple[str, float], ...]:
        """Names and initial values of the slots."""
        ...

    def __call__(
        self, gradient: Float[Tensor, " P"], slots: Slots, rate: Rate, steps: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, " P"], Slots]:
        """Difference to subtract from the parameters, and the new slots; `steps` includes this step."""
        ...


@dataclass(frozen=True)
class RMSPropTF:
    """RMSProp as TensorFlow 1 computes it; published learning rates and epsilons refer to it.

    The accumulator starts at 1 and epsilon is inside the root: ms <- d ms + (1 - d) g^2,
    mom <- momentum mom + lr g / sqrt(ms + epsilon), p <- p - mom.
    """

    decay: float = 0.99
    momentum: float = 0.0
    eps: float = 0.1

    @property
    def slots(self) -> tuple[tuple[str, float], ...]:
        """Slots, see `Rule`."""
        return (("square", 1.0), ("momentum", 0.0)) if self.momentum else (("square", 1.0),)

    def __call__(
        self, gradient: Float[Tensor, " P"], slots: Slots, rate: Rate, steps: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, " P"], Slots]:
        """Apply the rule, see `Rule`."""
        square = (slots["square"] * self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
        change = (square + self.eps).rsqrt_().mul_(gradient).mul_(rate)
        if not self.momentum:
            return change, {"square": square}
        change += self.momentum * slots["momentum"]
        return change, {"square": square, "momentum": change}


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1), with epsilon outside the root."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots = (("mean", 0.0), ("square", 0.0))

    def __call__(
        self, gradient: Float[Tensor, " P"], slots: Slots, rate: Rate, steps: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, " P"], Slots]:
        """Apply the rule, see `Rule`."""
        mean = torch.lerp(slots["mean"], gradient, 1 - self.beta1)
        square = (slots["square"] * self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        root = square.sqrt().div_((1 - self.beta2**steps).sqrt()).add_(self.eps)
        return (mean / root).mul_(rate / (1 - self.beta1**steps)), {"mean": mean, "square": square}


def flatten(gradients: Iterable[Tensor | None], params: Iterable[nn.Parameter]) -> Float[Tensor, " P"]:
    """Gradients of all parameters as one vector, zeros for a missing one."""
    both = zip(gradients, params, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in both])


def flat_gradient(params: list[nn.Parameter]) -> Float[Tensor, " P"]:
    """Gradients that backward has stored at the parameters, as one vector."""
    return flatten((p.grad for p in params), params)


class Optimizer:
    """Optimiser: a rule, the trained parameters (P numbers in all) and the rule's slots."""

    def __init__(self, rule: Rule, params: list[nn.Parameter]) -> None:
        self.rule, self.params = rule, params
        self._sizes = [p.numel() for p in params]
        like = params[0].detach()
        self.slots: Slots = {name: like.new_full((sum(self._sizes),), begin) for name, begin in rule.slots}
        self.steps = torch.zeros((), dtype=torch.float64, device=like.device)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self.params:
            p.grad = None

    def gradient(self) -> Float[Tensor, " P"]:
        """Gradient [P] of all parameters, zeros for a missing one."""
        return flat_gradient(self.params)

    @torch.no_grad()
    def step(self, gradient: Float[Tensor, " P"], rate: Rate, good: Bool[Tensor, ""] | None = None) -> None:
        """Change the parameters, or leave everything unchanged if `good` is false.

        With `good` all tensors keep their addresses, as a CUDA graph requires.
        """
        steps = self.steps + 1
        change, slots = self.rule(gradient, self.slots, rate, steps)
        if good is not None:
            change = change.where(good, 0)
            for name, new in slots.items():
                torch.where(good, new, self.slots[name], out=self.slots[name])
            torch.where(good, steps, self.steps, out=self.steps)
        else:
            self.slots, self.steps = slots, steps
        torch._foreach_sub_(list[Tensor](self.params), tuple(self._split(change)))

    def state_dict(self) -> dict[str, Any]:
        """Copy of the state: plain containers of tensors and numbers."""
        slots = {name: [t.cpu().clone() for t in self._split(flat)] for name, flat in self.slots.items()}
        return {"steps": int(self.steps), "slots": slots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load `state_dict()` of an optimiser of the same parameters; missing slots keep their initial value."""
        self.steps.fill_(state["steps"])
        for name, flat in self.slots.items():
            parts = self._split(flat)
            for part, saved in zip(parts, state["slots"].get(name, parts), strict=True):
                if part.shape != saved.shape:
                    raise ValueError(f"{name} of shape {list(saved.shape)}, not {list(part.shape)}")
                part.copy_(saved)

    def _split(self, flat: Float[Tensor, " P"]) -> list[Tensor]:
        """Views of the flat vector with the parameters' shapes."""
        parts = flat.split(self._sizes)
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]


def make_rule(config: LearnerConfig) -> Rule:
    """Update rule of the configuration."""
    if config.optimizer == "adam":
        return Adam(eps=config.epsilon)
    return RMSPropTF(config.rmsprop_decay, config.rmsprop_momentum, config.epsilon)


def make_optimizer(config: LearnerConfig, params: Iterable[nn.Parameter]) -> Optimizer:
    """Optimiser of the configuration over the trained parameters."""
    return Optimizer(make_rule(config), [p for p in params if p.requires_grad])


def learning_rate(config: LearnerConfig, env_frames: int, total_frames: int) -> float:
    """Learning rate after `env_frames` of `total_frames`."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return config.learning_rate * max(0.0, 1 - env_frames / total_frames)
