"""The functions that are learnt, and the networks of one hidden layer that learn them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from impala_mi.nn.multiplicative import Additive, Diagonal, LowRank, Multiplicative

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "summation": lambda x, z: (x + z).sum(-1, keepdim=True),
    "gating": lambda x, z: (x.sigmoid() * z).sum(-1, keepdim=True),
    "dot product": lambda x, z: (x * z).sum(-1, keepdim=True),
    "summation, d outputs": lambda x, z: x + z,
    "gating, d outputs": lambda x, z: x.sigmoid() * z,
}
"""Of x and z [..., d], to [..., 1] or [..., d]."""
VARIANCE = {"summation, d outputs": 2.0, "gating, d outputs": 0.293}
"""Of each of d outputs, which do not depend on each other."""
TITLES = {
    "summation": "summation: Σ (x + z)",
    "gating": "gating: σ(x) · z",
    "dot product": "dot product: x · z",
    "summation, d outputs": "summation, d outputs: x + z",
    "gating, d outputs": "gating, d outputs: σ(x) ⊙ z",
}


def outputs(function: str, width: int) -> int:
    """Of a function of two vectors of that width."""
    return FUNCTIONS[function](torch.zeros(width), torch.zeros(width)).numel()


def targets(functions: Sequence[str], x: Tensor, z: Tensor) -> Tensor:
    """[F, ..., most outputs] of x and z [..., d]; padded with zeros, as the networks are."""
    values = [FUNCTIONS[function](x, z) for function in functions]
    most = max(value.shape[-1] for value in values)
    return torch.stack([nn.functional.pad(value, (0, most - value.shape[-1])) for value in values])


class Network(nn.Module):
    """A layer of x and z, its activation, and a linear readout."""

    def __init__(self, layer: nn.Module, activation: Callable[[Tensor], Tensor], readout: nn.Module) -> None:
        super().__init__()
        self.layer, self.activation, self.readout = layer, activation, readout

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """[..., out] of x and z [..., d]."""
        return self.readout(self.activation(self.layer(x, z)))


def _same(x: Tensor) -> Tensor:
    return x


MODELS: dict[str, Callable[[int, int, int], Network]] = {
    "MLP": lambda d, out, size: Network(Additive(d, d, size), torch.relu, nn.Linear(size, out)),
    "MI": lambda d, out, size: Network(Multiplicative(d, d, size), _same, nn.Linear(size, out)),
    "low rank": lambda d, out, size: Network(LowRank(d, d, out, size), _same, nn.Identity()),
    "diagonal": lambda d, out, size: Network(Diagonal(d, d), _same, nn.Linear(d, out)),
}
"""Of a width d, a number of outputs and a size."""
