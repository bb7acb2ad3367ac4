"""Gated relatives of the multiplicative family: generated diagonals with a nonlinearity (paper, sections 2 and 4).

As in `multiplicative`, every layer maps x [..., n] and a context z [..., m], and `generate(z)` returns the W'(z)
and b'(z) with which y = W'(z) x + b'(z).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from impala_mi.nn.multiplicative import Generated


class Gate(nn.Module):
    """y = sigmoid(z^T W + v) * x: the diagonal form without a generated bias, its diagonal bounded by a sigmoid.

    A context that holds x too, z = [x; c], makes it attention's bounded mask: m = f(x, c), y = m * x (section 2).
    """

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.linear = nn.Linear(m, n)

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d n"]:
        """[..., n]."""
        return torch.sigmoid(self.linear(z)) * x

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' = diag(sigmoid(z^T W + v)) and b' = 0."""
        diagonal = torch.sigmoid(self.linear(z))
        return Generated(torch.diag_embed(diagonal), torch.zeros_like(diagonal))


class GatedLinear(nn.Module):
    """y = (A x + a) * sigmoid(z^T W + v); with z = x the gated linear unit (Dauphin et al., 2017, equation 1)."""

    def __init__(self, n: int, m: int, k: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n, k)
        self.gate = Gate(k, m)

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d k"]:
        """[..., k]."""
        return self.gate(self.linear(x), z)

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' = diag(g) A and b' = g * a, g = sigmoid(z^T W + v)."""
        g = torch.sigmoid(self.gate.linear(z))
        return Generated(g.unsqueeze(-1) * self.linear.weight, g * self.linear.bias)


class Highway(nn.Module):
    """y = T(z) * H(z) + (1 - T(z)) * x: a diagonal form that carries x where T = sigmoid(z^T W + v) is closed.

    With z = x it is the highway layer (Srivastava et al., 2015, equation 3). H is a linear layer with a ReLU; T
    starts with a bias of -1, so that x is mostly carried at first, as proposed there.
    """

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.linear = nn.Linear(m, 2 * n)
        with torch.no_grad():
            self.linear.bias[n:] = -1.0

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d n"]:
        """[..., n]."""
        transformed, gate = self._streams(z)
        return torch.lerp(x, transformed, gate)

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' = diag(1 - T(z)) and b' = T(z) * H(z)."""
        transformed, gate = self._streams(z)
        return Generated(torch.diag_embed(1 - gate), gate * transformed)

    def _streams(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """H(z) and T(z), of one product."""
        transformed, gate = self.linear(z).chunk(2, -1)
        return torch.relu(transformed), torch.sigmoid(gate)
