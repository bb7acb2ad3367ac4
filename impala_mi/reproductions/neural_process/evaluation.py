"""What neural processes are judged by: held-out functions, the same for all; a Gaussian process is the floor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impala_mi.reproductions.neural_process.gaussian_process import NOISE, draw, posterior
from impala_mi.reproductions.neural_process.model import LATENT, Gaussian, NeuralProcess

SCALES = (0.1, 10.0)
"""Of the length scale (paper, appendix F)."""
INPUTS = (-2.0, 2.0)
POINTS = 50
"""Of a function in training, and most contexts."""
CONTEXTS = (1, 2, 5, 10, 20, 50)
WEIGHTS = np.bincount(np.abs(np.subtract.outer(np.arange(1, POINTS + 1), CONTEXTS)).argmin(1)) / POINTS
"""Of each in a mean over 1 to 50 contexts, all as likely as in training: each stands for the numbers next to it."""
TARGETS = 64
EXAMPLES = ((0.3, 10), (1.0, 5), (5.0, 3))
"""Length scale and number of contexts of the functions to look at."""
GRID = 101
EXAMPLE_SAMPLES, LINES = 64, 5
"""Of z, and how many of them are drawn."""
AT_ONCE = 16
"""Functions that are predicted together: what fits into a processor's cache."""


@dataclass(frozen=True)
class HeldOut:
    """Functions to be judged by: contexts first, targets after them."""

    x: Tensor
    """[D, 50 + 64]; double precision, as is all but the noise."""
    y: Tensor
    scale: Tensor
    """[D]."""
    noise: Tensor
    """[S, D, 64], for z."""

    def some(self, draws: int, samples: int) -> "HeldOut":
        """The first of them."""
        return HeldOut(self.x[:draws], self.y[:draws], self.scale[:draws], self.noise[:samples, :draws])


@dataclass(frozen=True)
class Examples:
    """Functions to look at."""

    x: Sequence[Tensor]
    """Contexts [1, C] of each; double precision, as is all but the noise."""
    y: Sequence[Tensor]
    grid: Tensor
    """[1, G]."""
    truth: Tensor
    """[E, G], without noise."""
    noise: Tensor
    """[S, 1, 64], for z."""


def sample(*shape: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [..., points], normal numbers [..., points] and length scales [...] of functions."""
    device = generator.device
    x = torch.rand(*shape, points, generator=generator, device=device) * (INPUTS[1] - INPUTS[0]) + INPUTS[0]
    scale = torch.rand(shape, generator=generator, device=device) * (SCALES[1] - SCALES[0]) + SCALES[0]
    return x, torch.randn(*shape, points, generator=generator, device=device), scale


def held_out(draws: int, samples: int, seed: int, device: torch.device) -> HeldOut:
    """The same on every device."""
    generator = torch.Generator().manual_seed(seed)
    x, normal, scale = (v.double() for v in sample(draws, points=POINTS + TARGETS, generator=generator))
    noise = torch.randn(samples, draws, LATENT, generator=generator)
    return HeldOut(*(v.to(device) for v in (x, draw(x, scale, NOISE, normal), scale, noise)))


def make_examples(seed: int, device: torch.device) -> Examples:
    """Noisy contexts, and the function on a grid, drawn at once; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.linspace(*INPUTS, GRID, dtype=torch.float64)
    xs, ys, truth = [], [], []
    for scale, contexts in EXAMPLES:
        x, normal, _ = (v.double() for v in sample(points=contexts + GRID, generator=generator))
        x[contexts:] = grid
        noise = torch.full_like(x, NOISE)
        noise[contexts:] = 1e-4  # not to be seen
        y = draw(x, torch.tensor(scale, dtype=torch.float64), noise, normal)
        xs.append(x[None, :contexts].to(device))
        ys.append(y[None, :contexts].to(device))
        truth.append(y[contexts:])
    noise = torch.randn(EXAMPLE_SAMPLES, 1, LATENT, generator=generator)
    return Examples(xs, ys, grid[None].to(device), torch.stack(truth), noise.to(device))


@torch.no_grad()
def errors(network: NeuralProcess, held: HeldOut) -> Tensor:
    """Of each function by number of contexts, [2, contexts, D], averaged over targets.

    First the negative log-likelihood of a target under the mixture of the predictions for each z, then the squared
    error of the mixture's mean.
    """
    x, y, found = held.x.float(), held.y.float(), []
    at, value = x[:, POINTS:], y[:, POINTS:]
    for number in CONTEXTS:
        for low in range(0, len(x), AT_ONCE):
            some = slice(low, low + AT_ONCE)
            predicted = network.predict(x[some, :number], y[some, :number], at[some], held.noise[:, some])
            density = predicted.log_density(value[some]).logsumexp(0) - np.log(len(held.noise))
            squared = (predicted.mean.mean(0) - value[some]).square()
            found.append(torch.stack([-density.mean(-1), squared.mean(-1)]))
    return torch.cat(found, -1).unflatten(-1, (len(CONTEXTS), -1))


def oracle(held: HeldOut) -> Tensor:
    """As `errors`, of the Gaussian process that the functions are drawn from, told the length scale of each."""
    found = []
    for number in CONTEXTS:
        predicted = Gaussian(
            *posterior(held.x[:, :number], held.y[:, :number], held.x[:, POINTS:], held.scale, NOISE)
        )
        value = held.y[:, POINTS:]
        squared = (predicted.mean - value).square()
        found.append(torch.stack([-predicted.log_density(value).mean(-1), squared.mean(-1)]))
    return torch.stack(found, 1)


@torch.no_grad()
def predictions(network: NeuralProcess, examples: Examples) -> list[dict[str, Any]]:
    """For each example the mean and standard deviation [G] of the mixture, and the means [lines, G] of some z."""
    found = []
    for x, y in zip(examples.x, examples.y, strict=True):
        predicted = network.predict(x.float(), y.float(), examples.grid.float(), examples.noise)
        mean = predicted.mean.mean(0)
        variance = (predicted.sd.square() + predicted.mean.square()).mean(0) - mean.square()
        lines = predicted.mean[:LINES, 0]
        found.append({"mean": mean[0].tolist(), "sd": variance[0].sqrt().tolist(), "lines": lines.tolist()})
    return found


def best(examples: Examples) -> list[dict[str, Any]]:
    """As `predictions`, of the Gaussian process; without lines."""
    found = []
    for x, y, (length, _) in zip(examples.x, examples.y, EXAMPLES, strict=True):
        mean, sd = posterior(x, y, examples.grid, torch.tensor([length], dtype=x.dtype, device=x.device), NOISE)
        found.append({"mean": mean[0].tolist(), "sd": sd[0].tolist(), "lines": []})
    return found
