"""Multiplicative layers: M(x, z) = z^T W x + z^T U + V x + b and its relatives (paper, section 2).

Every layer maps x [..., n] and a context z [..., m] to [..., k], and `generate(z)` returns the weights
W'(z) [..., k, n] and the bias b'(z) [..., k] that it applies to x, so that y = W'(z) x + b'(z).
`rescale(scale, shift)`, which the layers of heads have, changes the weights so that output i becomes
scale[i] y[i] + shift[i] for every x and z: it multiplies row i of W'(z) and b'(z) (see `nn.value_normaliser`).

Initialisation: for x and z of unit variance the output has the variance of `nn.Linear` (1/3) for every width of z.
Half of it comes from V, half from W, whose entries shrink with the expected squared norm of z.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Generated(NamedTuple):
    """Weights and bias that a context generates for a layer."""

    weight: Float[Tensor, "... k n"]
    bias: Float[Tensor, "... k"]


def rescale_linear(linear: nn.Linear, scale: Float[Tensor, " k"], shift: Float[Tensor, " k"]) -> None:
    """Change a linear layer so that output i becomes scale[i] y[i] + shift[i] for every input."""
    with torch.no_grad():
        linear.weight.mul_(scale[:, None])
        linear.bias.mul_(scale).add_(shift)


def _uniform(*shape: int, variance: float) -> nn.Parameter:
    bound = math.sqrt(3 * variance)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class Multiplicative(nn.Module):
    """Full form (paper, equation 1), W [m, n, k], U [m, k], V [k, n], b [k].

    Args:
        n: width of x.
        m: width of the context z.
        k: width of the output.
        context_norm2: expected squared norm of z; m for units of unit variance, 1 for a one-hot z.
    """

    def __init__(self, n: int, m: int, k: int, context_norm2: float | None = None) -> None:
        super().__init__()
        self.n, self.m, self.k = n, m, k
        norm2 = float(m) if context_norm2 is None else context_norm2
        self.W = _uniform(m, n, k, variance=1 / (6 * n * norm2))
        self.U = nn.Parameter(torch.zeros(m, k))
        self.V = _uniform(k, n, variance=1 / (6 * n))
        self.b = nn.Parameter(torch.zeros(k))

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d k"]:
        """[..., k]. One product contracts W with all rows at once, without a weight matrix per row."""
        if self.m <= self.n:  # the intermediate is [..., m, k], smaller than [..., n, k]
            flat = x @ self.W.transpose(0, 1).reshape(self.n, self.m * self.k)
            bilinear = (z.unsqueeze(-2) @ flat.unflatten(-1, (self.m, self.k))).squeeze(-2)
        else:
            flat = z @ self.W.reshape(self.m, self.n * self.k)
            bilinear = (x.unsqueeze(-2) @ flat.unflatten(-1, (self.n, self.k))).squeeze(-2)
        return bilinear + z @ self.U + nn.functional.linear(x, self.V, self.b)

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' = z^T W + V [..., k, n] and b' = z^T U + b [..., k]."""
        return Generated(torch.einsum("...m,mnk->...kn", z, self.W) + self.V, z @ self.U + self.b)

    @torch.no_grad()
    def rescale(self, scale: Float[Tensor, " k"], shift: Float[Tensor, " k"]) -> None:
        """Outputs become scale * y + shift: each parameter of output i is multiplied by scale[i]."""
        self.W.mul_(scale)
        self.U.mul_(scale)
        self.V.mul_(scale[:, None])
        self.b.mul_(scale).add_(shift)


class LowRank(nn.Module):
    """Full form with W of low rank (Taylor & Hinton, 2009): y = ((x P) * (z Q)) R + z^T U + V x + b."""

    def __init__(self, n: int, m: int, k: int, rank: int) -> None:
        super().__init__()
        self.P = _uniform(n, rank, variance=1 / n)
        self.Q = _uniform(m, rank, variance=1 / m)
        self.R = _uniform(rank, k, variance=1 / (6 * rank))
        self.U = nn.Parameter(torch.zeros(m, k))
        self.V = _uniform(k, n, variance=1 / (6 * n))
        self.b = nn.Parameter(torch.zeros(k))

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d k"]:
        """[..., k]."""
        return ((x @ self.P) * (z @ self.Q)) @ self.R + z @ self.U + nn.functional.linear(x, self.V, self.b)

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' = sum_r (z^T Q)_r P_r R_r + V and b' = z^T U + b."""
        weight = torch.einsum("...r,nr,rk->...kn", z @ self.Q, self.P, self.R) + self.V
        return Generated(weight, z @ self.U + self.b)

    @torch.no_grad()
    def rescale(self, scale: Float[Tensor, " k"], shift: Float[Tensor, " k"]) -> None:
        """Outputs become scale * y + shift, through R, U, V and b; P and Q belong to all outputs."""
        self.R.mul_(scale)
        self.U.mul_(scale)
        self.V.mul_(scale[:, None])
        self.b.mul_(scale).add_(shift)


class Diagonal(nn.Module):
    """Gating (paper, section 2): y = (z^T W + v) * x + z^T U + b, W' a diagonal matrix; the output is as wide as x.

    With x an embedding and z the LSTM's last output it is the multiplicative input embedding (section 8).
    """

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.W = _uniform(m, n, variance=1 / (6 * m))
        self.U = nn.Parameter(torch.zeros(m, n))
        self.v = _uniform(n, variance=1 / 6)
        self.b = nn.Parameter(torch.zeros(n))

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d n"]:
        """[..., n]."""
        return (z @ self.W + self.v) * x + z @ self.U + self.b

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' = diag(z^T W + v) and b' = z^T U + b."""
        return Generated(torch.diag_embed(z @ self.W + self.v), z @ self.U + self.b)


class ScaleBias(nn.Module):
    """Generated scale and bias per channel of x (FiLM, Perez et al., 2018); the output is as wide as x.

    x is read as `channels` groups of n / channels features: 1 gives the paper's scalar matrix, n the diagonal
    form. Raises ValueError where n is not a multiple of `channels`.
    """

    def __init__(self, n: int, m: int, channels: int = 1) -> None:
        super().__init__()
        if n % channels:
            raise ValueError(f"n={n} is not a multiple of channels={channels}")
        self.repeat = n // channels
        self.gate = Diagonal(channels, m)

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d n"]:
        """[..., n]."""
        scale, bias = self._channels(z)
        return scale * x + bias

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' = a diagonal matrix of repeated scales, b' the repeated biases."""
        scale, bias = self._channels(z)
        return Generated(torch.diag_embed(scale), bias)

    def _channels(self, z: Tensor) -> tuple[Tensor, Tensor]:
        scale = z @ self.gate.W + self.gate.v
        bias = z @ self.gate.U + self.gate.b
        return scale.repeat_interleave(self.repeat, -1), bias.repeat_interleave(self.repeat, -1)


class Film(nn.Module):
    """Linear layer behind FiLM (Perez et al., 2018): y = A (gamma(z) * x + beta(z)) + b.

    gamma = z^T G + g and beta = z^T U, so W' = A diag(gamma(z)): z stresses the same features in all rows.
    """

    def __init__(self, n: int, m: int, k: int) -> None:
        super().__init__()
        self.G = _uniform(m, n, variance=1 / (2 * m))
        self.g = nn.Parameter(torch.full((n,), 0.5**0.5))
        self.U = nn.Parameter(torch.zeros(m, n))
        self.linear = nn.Linear(n, k)

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d k"]:
        """[..., k]."""
        return self.linear((z @ self.G + self.g) * x + z @ self.U)

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' = A diag(z^T G + g) and b' = A (z^T U) + b."""
        return Generated(self.linear.weight * (z @ self.G + self.g).unsqueeze(-2), self.linear(z @ self.U))

    def rescale(self, scale: Float[Tensor, " k"], shift: Float[Tensor, " k"]) -> None:
        """Outputs become scale * y + shift, through A and b; gamma and beta belong to all outputs."""
        rescale_linear(self.linear, scale, shift)


class HyperNetwork(nn.Module):
    """Layer y = W'(z) x + b'(z) of weights from a network g: [..., m] -> [..., k * n + k] (Ha et al., 2017).

    Where g is affine it is the full form (paper, section 2).
    """

    def __init__(self, n: int, k: int, generator: nn.Module) -> None:
        super().__init__()
        self.n, self.k = n, k
        self.generator = generator

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d k"]:
        """[..., k]."""
        weight, bias = self.generate(z)
        return (weight @ x.unsqueeze(-1)).squeeze(-1) + bias

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """The generator's output, split into W' and b'."""
        weight, bias = self.generator(z).split([self.k * self.n, self.k], dim=-1)
        return Generated(weight.unflatten(-1, (self.k, self.n)), bias)


class DeepHyperNetwork(nn.Module):
    """Layer y = W'(z) x + b'(z) of weights from a network of two layers, with a ReLU between them.

    A hypernetwork whose last layer is linear is the full form of an embedded context (paper, section 2), and is
    computed like that: no weight matrix per row is made.

    Args:
        n: width of x.
        m: width of the context z.
        k: width of the output.
        hidden: width of the generating network's hidden layer.
    """

    def __init__(self, n: int, m: int, k: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Linear(m, hidden)
        nn.init.normal_(self.embed.weight, std=(2 / m) ** 0.5)  # hidden units of second moment 1
        nn.init.zeros_(self.embed.bias)
        self.full = Multiplicative(n, hidden, k)

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d k"]:
        """[..., k]."""
        return self.full(x, torch.relu(self.embed(z)))

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' and b' of the full form, with relu(embed(z)) for z."""
        return self.full.generate(torch.relu(self.embed(z)))

    def rescale(self, scale: Float[Tensor, " k"], shift: Float[Tensor, " k"]) -> None:
        """Outputs become scale * y + shift, through the last layer of the generating network."""
        self.full.rescale(scale, shift)


class Additive(nn.Module):
    """Baseline W [x; z] + b: the context only shifts the output."""

    def __init__(self, n: int, m: int, k: int) -> None:
        super().__init__()
        self.n = n
        self.linear = nn.Linear(n + m, k)

    def forward(self, x: Float[Tensor, "*d n"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d k"]:
        """[..., k]."""
        return self.linear(torch.cat([x, z], -1))

    def generate(self, z: Float[Tensor, "*d m"]) -> Generated:
        """W' is the same for every z."""
        w_x, w_z = self.linear.weight[:, : self.n], self.linear.weight[:, self.n :]
        return Generated(w_x.expand(*z.shape[:-1], *w_x.shape), z @ w_z.T + self.linear.bias)

    def rescale(self, scale: Float[Tensor, " k"], shift: Float[Tensor, " k"]) -> None:
        """Outputs become scale * y + shift."""
        rescale_linear(self.linear, scale, shift)
