"""Functions of two inputs, and networks with one hidden layer that learn them."""

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
"""Functions of x and z [..., d], with outputs [..., 1] or [..., d]."""
VARIANCE = {"summation, d outputs": 2.0, "gating, d outputs": 0.293}
"""Variance of each of d outputs, which are independent."""
TITLES = {
    "summation": "summation: Σ (x + z)",
    "gating": "gating: σ(x) · z",
    "dot product": "dot product: x · z",
    "summation, d outputs": "summation, d outputs: x + z",
    "gating, d outputs": "gating, d outputs: σ(x) ⊙ z",
}


def outputs(function: str, width: int) -> int:
    """Number of outputs of a function of two vectors of that width."""
    return FUNCTIONS[function](torch.zeros(width), torch.zeros(width)).numel()


def targets(functions: Sequence[str], x: Tensor, z: Tensor) -> Tensor:
    """Values [F, ..., largest number of outputs] for x and z [..., d], padded with zeros as the networks are."""
    values = [FUNCTIONS[function](x, z) for function in functions]
    most = max(value.shape[-1] for value in values)
    return torch.stack([nn.functional.pad(value, (0, most - value.shape[-1])) for value in values])


class ShallowNetwork(nn.Module):
    """A layer that reads x and z, its activation, and a linear readout."""

    def __init__(self, layer: nn.Module, activation: Callable[[Tensor], Tensor], readout: nn.Module) -> None:
        super().__init__()
        self.layer, self.activation, self.readout = layer, activation, readout

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Outputs [..., out] for x and z [..., d]."""
        return self.readout(self.activation(self.layer(x, z)))


def _identity(x: Tensor) -> Tensor:
    return x


MODELS: dict[str, Callable[[int, int, int], ShallowNetwork]] = {
    "MLP": lambda d, out, size: ShallowNetwork(Additive(d, d, size), torch.relu, nn.Linear(size, out)),
    "MI": lambda d, out, size: ShallowNetwork(Multiplicative(d, d, size), _identity, nn.Linear(size, out)),
    "low rank": lambda d, out, size: ShallowNetwork(LowRank(d, d, out, size), _identity, nn.Identity()),
    "diagonal": lambda d, out, size: ShallowNetwork(Diagonal(d, d), _identity, nn.Linear(d, out)),
}
"""Network makers by model; their arguments are the width d, the number of outputs and the size."""
