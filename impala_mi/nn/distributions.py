"""Action distributions: what the parameters that a head computes mean, and how past actions enter the network.

A distribution is made from parameters [..., P] and holds the work that its methods share. Another action space
needs a class here and a line in `DISTRIBUTIONS`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from impala_mi.types import ActionSpace, Box, Discrete, MultiDiscrete


@runtime_checkable
class Distribution(Protocol):
    """Distribution over actions [..., *action_shape], of parameters [..., P]."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Random actions [..., *action_shape]; carries no gradient."""
        ...

    def mode(self) -> Tensor:
        """Greedy actions [..., *action_shape]: the most likely choices, the medians of real numbers."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """Log probability (density) [...] of actions [..., *action_shape]."""
        ...

    def entropy(self) -> Tensor:
        """Entropy [...] in nats."""
        ...

    def kl(self, other: Any) -> Tensor:
        """Kullback-Leibler divergence [...] of `other` from this distribution, in nats."""
        ...


class Categorical:
    """One choice among A actions, of logits [..., A]."""

    def __init__(self, logits: Float[Tensor, "*d A"]) -> None:
        self.logits = logits
        self._log_p: Tensor | None = None

    @property
    def log_p(self) -> Float[Tensor, "*d A"]:
        """Log probabilities of all actions."""
        if self._log_p is None:
            self._log_p = torch.log_softmax(self.logits, -1)
        return self._log_p

    def sample(self, generator: torch.Generator) -> Tensor:
        """Actions [...] by the Gumbel trick: the arg max of logits plus Gumbel noise is a sample of the softmax."""
        noise = torch.empty_like(self.logits).exponential_(generator=generator).log_()
        return (self.logits - noise).argmax(-1)

    def mode(self) -> Tensor:
        """Actions [...] of the highest probability."""
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """[...]."""
        return self.log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """[...]."""
        return -(self.log_p.exp() * self.log_p).sum(-1)

    def kl(self, other: "Categorical") -> Tensor:
        """[...]."""
        return (self.log_p.exp() * (self.log_p - other.log_p)).sum(-1)


class MultiCategorical:
    """D independent choices, of the logits of all of them side by side: [..., P], P the sum of `sizes`."""

    def __init__(self, logits: Float[Tensor, "*d P"], sizes: Sequence[int]) -> None:
        self._parts = [Categorical(part) for part in logits.split(list(sizes), -1)]

    def sample(self, generator: torch.Generator) -> Tensor:
        """Actions [..., D]."""
        return torch.stack([part.sample(generator) for part in self._parts], -1)

    def mode(self) -> Tensor:
        """Actions [..., D]."""
        return torch.stack([part.mode() for part in self._parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """[...]."""
        return self._sum(part.log_prob(a) for part, a in zip(self._parts, action.unbind(-1), strict=True))

    def entropy(self) -> Tensor:
        """[...]."""
        return self._sum(part.entropy() for part in self._parts)

    def kl(self, other: "MultiCategorical") -> Tensor:
        """[...]."""
        return self._sum(p.kl(q) for p, q in zip(self._parts, other._parts, strict=True))

    @staticmethod
    def _sum(parts: Any) -> Tensor:
        return torch.stack(list(parts), -1).sum(-1)


LOG_STD_RANGE = (-5.0, 1.0)
"""Bounds of a Gaussian policy's log standard deviation, before squashing."""
_QUADRATURE_POINTS = 32
"""Nodes of the Gauss-Hermite quadrature of a squashed Gaussian's entropy; errors are below 0.002 nat a number."""


class SquashedGaussian:
    """D independent numbers low + (high - low) (tanh(u) + 1) / 2, u Gaussian (Haarnoja et al. 2018, appendix C).

    Parameters [..., 2 D] are the means of u and the logs of its standard deviations, the latter squashed into
    `LOG_STD_RANGE`. Actions are u itself, [..., D]: no precision is lost near the bounds, and `Box.env_actions`
    turns u into the environment's numbers. Densities and entropy are those of the environment's numbers.
    """

    def __init__(self, params: Float[Tensor, "*d P"], low: Sequence[float], high: Sequence[float]) -> None:
        self.mean, raw = params.chunk(2, -1)
        least, most = LOG_STD_RANGE
        self.log_std = least + (most - least) * torch.sigmoid(raw - math.log(-most / least))
        self._log_scale = sum(math.log((b - a) / 2) for a, b in zip(low, high, strict=True))

    def sample(self, generator: torch.Generator) -> Tensor:
        """Actions u [..., D]."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return (self.mean + self.log_std.exp() * noise).detach()

    def mode(self) -> Tensor:
        """Actions u [..., D]: the mean of u, the median of the environment's numbers."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """[...]."""
        z = (action - self.mean) * (-self.log_std).exp()
        gaussian = (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        return gaussian - _log_tanh_slope(action).sum(-1) - self._log_scale

    def entropy(self) -> Tensor:
        """[...]; the expected log slope of tanh is computed by Gauss-Hermite quadrature."""
        x, w = _quadrature(self.mean.dtype, self.mean.device)
        slope = _log_tanh_slope(self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * x) @ w
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e) + slope).sum(-1) + self._log_scale

    def kl(self, other: "SquashedGaussian") -> Tensor:
        """[...]; squashing changes nothing, so it is that of the Gaussians."""
        ratio = 2 * (self.log_std - other.log_std)
        distance = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return (0.5 * (ratio.exp() + distance - 1 - ratio)).sum(-1)


@functools.cache
def _quadrature(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the expectation over a standard Gaussian; made once, for CUDA graphs."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE_POINTS)
    with torch.inference_mode(False):  # they are kept, and gradients may need them later
        x, w = (torch.as_tensor(a, dtype=dtype, device=device) for a in (nodes, weights / weights.sum()))
    return x, w


def _log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), without loss of precision at large |u|."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


DISTRIBUTIONS: dict[type[Any], Callable[[Any, Tensor], Any]] = {
    Discrete: lambda space, params: Categorical(params),
    MultiDiscrete: lambda space, params: MultiCategorical(params, space.sizes),
    Box: lambda space, params: SquashedGaussian(params, space.low, space.high),
}
"""Distribution over each kind of action space, from the space and parameters [..., P]."""


def distribution(space: ActionSpace, params: Float[Tensor, "*d P"]) -> Distribution:
    """Distribution over a space's actions, of parameters [..., P]."""
    made: Distribution = DISTRIBUTIONS[type(space)](space, params)
    return made


class ActionEncoder(nn.Module):
    """Past actions [..., *action_shape] to features [..., width]: one-hot choices, or tanh of numbers.

    `no_action` of the space becomes zeros.
    """

    one_hot: Tensor
    _start: Tensor
    _rows: Tensor

    def __init__(self, space: ActionSpace) -> None:
        super().__init__()
        self._box = isinstance(space, Box)
        sizes = () if isinstance(space, Box) else space.sizes if isinstance(space, MultiDiscrete) else (space.n,)
        self._multi = isinstance(space, MultiDiscrete)
        self.width = space.shape[0] if isinstance(space, Box) else sum(sizes)
        # One table of all choices, each with a last row of zeros, which no_action (-1) picks.
        rows = np.cumsum([0, *(n + 1 for n in sizes)])[:-1]
        # By NumPy, as `torch.eye` on the meta device loads PyTorch's compiler (2 CPU seconds).
        eyes = [torch.from_numpy(np.eye(n + 1, n, dtype=np.float32)) for n in sizes]
        table = torch.block_diag(*eyes) if sizes else torch.zeros(0, 0)
        self.register_buffer("one_hot", table, persistent=False)
        self.register_buffer("_start", torch.from_numpy(rows), persistent=False)
        self.register_buffer("_rows", torch.tensor([n + 1 for n in sizes]), persistent=False)

    def forward(self, action: Tensor) -> Float[Tensor, "*d W"]:
        """[..., width]."""
        if self._box:
            return torch.tanh(action)
        if not self._multi:
            return self.one_hot[action]
        return self.one_hot[self._start + action % self._rows].sum(-2)
