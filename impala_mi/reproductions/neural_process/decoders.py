"""Neural processes that differ in their decoder alone (paper, section 7 and appendix F).

The points of a function are encoded one by one and averaged: into h, deterministic, and into a Gaussian latent
variable z. The decoder reads both as one context c = [z; h], which all points of a function share: terms that
depend on c alone are computed once per function.

Details that the paper leaves open follow Kim et al. (2019): h is linear in the average of its points, the last of
the three layers before z comes after the average, the standard deviation of z is 0.1 + 0.9 sigmoid(.), and the
targets contain the contexts. Two details differ:

- The standard deviation of y is bounded below by that of the data's noise, which no prediction can do without.
  Their bound, 0.1, would hide how close a prediction comes to these functions.
- Hidden layers start as in He et al. (2015), for rectifiers. With PyTorch's own weights almost nothing of a point
  remains after six layers, and an MLP learnt only the mean of the contexts in 6,000 steps. Output layers start as
  PyTorch's and `impala_mi.nn.multiplicative`'s do, with similar scales.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from impala_mi.nn.multiplicative import Additive, Multiplicative
from impala_mi.reproductions.neural_process.gaussian_process import NOISE

WIDTH = 128
"""Units of a hidden layer."""
H_LAYERS, Z_LAYERS, DECODER_LAYERS = 6, 3, 4
LATENT = 64
"""Dimensions of z."""


@dataclass(frozen=True)
class Decoder:
    """Layers of a decoder that read the context c; x goes into the first."""

    first: bool
    """Whether the first hidden layer does."""
    hidden: bool
    """Whether the other hidden layers do."""
    last: type[Additive] | type[Multiplicative] | None
    """Layer by which the output reads c, or None if it does not."""
    width: int = WIDTH


DECODERS = {
    "mlp": Decoder(first=True, hidden=False, last=None),
    "mlp-wide": Decoder(first=True, hidden=False, last=None, width=176),
    "skip-mlp": Decoder(first=True, hidden=True, last=Additive),
    "mi-all": Decoder(first=True, hidden=False, last=Multiplicative),
    "mi-x": Decoder(first=False, hidden=False, last=Multiplicative),
}


class ElboTerms(NamedTuple):
    """Terms of the objective for each function [F]."""

    log_likelihood: Tensor
    """Mean over targets of log p(y | x, z, h), with z drawn from q(z | targets)."""
    divergence: Tensor
    """KL(q(z | targets) || q(z | contexts)) over the number of targets."""

    @property
    def loss(self) -> Tensor:
        """Minus the evidence lower bound per target (Garnelo et al. 2018b, equation 9)."""
        return self.divergence - self.log_likelihood


class Gaussian(NamedTuple):
    """Independent normal distributions."""

    mean: Tensor
    sd: Tensor

    def log_density(self, value: Tensor) -> Tensor:
        """Log density of each value."""
        return -0.5 * ((value - self.mean) / self.sd).square() - self.sd.log() - 0.5 * math.log(2 * math.pi)

    def divergence(self, other: "Gaussian") -> Tensor:
        """KL(self || other), summed over the last axis."""
        ratio = self.sd / other.sd
        apart = (self.mean - other.mean) / other.sd
        return (0.5 * (ratio.square() + apart.square() - 1) - ratio.log()).sum(-1)


def _rectified(layer: nn.Linear | Additive) -> nn.Module:
    """The layer with initial weights that keep the scale of activations through a rectifier."""
    linear = layer.linear if isinstance(layer, Additive) else layer
    nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
    return layer


class _Encoder(nn.Module):
    """Points, embedded one by one and averaged, to one vector for each function."""

    def __init__(self, layers: int, after: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_rectified(nn.Linear(n, WIDTH)) for n in [2, *[WIDTH] * (layers - 1)])
        self.after = after

    def embed(self, x: Tensor, y: Tensor) -> Tensor:
        """Embeddings [F, N, width] of points [F, N]."""
        points = torch.stack([x, y], -1)
        for layer in self.layers:
            points = functional.relu(layer(points))
        return points

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Vectors [F, out] of points [F, N]."""
        return self.after(self.embed(x, y).mean(-2))


class _DecoderNetwork(nn.Module):
    """x and c to a normal distribution of y."""

    def __init__(self, decoder: Decoder, context: int) -> None:
        super().__init__()
        width = decoder.width
        reads_context = [decoder.first, *[decoder.hidden] * (DECODER_LAYERS - 1)]
        self.hidden = nn.ModuleList(
            _rectified(Additive(n, context, width) if c else nn.Linear(n, width))
            for n, c in zip([1, *[width] * (DECODER_LAYERS - 1)], reads_context, strict=True)
        )
        self.last = nn.Linear(width, 2) if decoder.last is None else decoder.last(width, context, 2)

    def forward(self, x: Tensor, c: Tensor) -> Gaussian:
        """Distribution of y [..., F, N] for x [F, N] and c [..., F, m]."""
        features = x.unsqueeze(-1)
        for layer in self.hidden:
            features = functional.relu(apply_shared(layer, features, c))
        mean, raw = apply_shared(self.last, features, c).unbind(-1)
        return Gaussian(mean, NOISE + (1 - NOISE) * functional.softplus(raw))


def apply_shared(layer: nn.Module, x: Tensor, c: Tensor) -> Tensor:
    """Output [..., N, k] of a layer for N rows x [..., N, n] that share a context c [..., m].

    Equals layer(x, c) with c repeated for each row, with less work.
    """
    if isinstance(layer, Multiplicative):
        weight, bias = layer.generate(c)
        return x @ weight.mT + bias.unsqueeze(-2)
    if isinstance(layer, Additive):
        linear = layer.linear
        shift = functional.linear(c, linear.weight[:, layer.n :], linear.bias)
        return functional.linear(x, linear.weight[:, : layer.n]) + shift.unsqueeze(-2)
    return layer(x)


class NeuralProcess(nn.Module):
    """Encoders and a decoder.

    Args:
        decoder: inputs of the decoder's layers.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        # The last layer is linear, so it may follow the average over points.
        self.to_h = _Encoder(H_LAYERS - 1, nn.Linear(WIDTH, WIDTH))
        of_average = nn.Sequential(_rectified(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.Linear(WIDTH, 2 * LATENT))
        self.to_z = _Encoder(Z_LAYERS - 1, of_average)
        self.decode = _DecoderNetwork(decoder, LATENT + WIDTH)

    def _latent(self, average: Tensor) -> Gaussian:
        mean, raw = self.to_z.after(average).chunk(2, -1)
        return Gaussian(mean, 0.1 + 0.9 * raw.sigmoid())

    def forward(self, x: Tensor, y: Tensor, contexts: int, noise: Tensor) -> ElboTerms:
        """Terms of the objective [F] for points x, y [F, N], the first `contexts` of which are contexts.

        All N points are targets. `noise` [F, 64] is standard normal, for z.
        """
        embedded = self.to_z.embed(x, y)
        prior = self._latent(embedded[..., :contexts, :].mean(-2))
        posterior = self._latent(embedded.mean(-2))
        h = self.to_h(x[..., :contexts], y[..., :contexts])
        z = posterior.mean + posterior.sd * noise
        predicted = self.decode(x, torch.cat([z, h], -1))
        return ElboTerms(predicted.log_density(y).mean(-1), posterior.divergence(prior) / x.shape[-1])

    def predict(self, x: Tensor, y: Tensor, at: Tensor, noise: Tensor) -> Gaussian:
        """Distributions of y at targets `at` [F, T] given contexts x, y [F, C]: [S, F, T], one for each z.

        z is drawn from q(z | contexts); `noise` [S, F, 64] is standard normal, for z.
        """
        prior = self._latent(self.to_z.embed(x, y).mean(-2))
        z = prior.mean + prior.sd * noise
        h = self.to_h(x, y).expand(len(z), -1, -1)
        mean, sd = self.decode(at, torch.cat([z, h], -1))
        return Gaussian(*torch.broadcast_tensors(mean, sd))
