"""Held-out functions, the errors of neural processes on them, and the Gaussian process as their floor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impala_mi.reproductions.neural_process.decoders import LATENT, Gaussian, NeuralProcess
from impala_mi.reproductions.neural_process.gaussian_process import NOISE, draw, posterior

SCALES = (0.1, 10.0)
"""Range of the length scale (paper, appendix F)."""
INPUTS = (-2.0, 2.0)
"""Range of x."""
POINTS = 50
"""Points of a function in training, and the largest number of contexts."""
CONTEXTS = (1, 2, 5, 10, 20, 50)
"""Numbers of contexts at which errors are measured."""
WEIGHTS = np.bincount(np.abs(np.subtract.outer(np.arange(1, POINTS + 1), CONTEXTS)).argmin(1)) / POINTS
"""Weights of `CONTEXTS` in a mean over 1 to 50 contexts, all equally likely: each stands for its nearest."""
TARGETS = 64
"""Targets of a held-out function."""
EXAMPLES = ((0.3, 10), (1.0, 5), (5.0, 3))
"""Length scale and number of contexts of the functions in a figure."""
GRID = 101
"""Points of the figure's x axis."""
EXAMPLE_SAMPLES, LINES = 64, 5
"""Samples of z, and how many of them are drawn as lines."""
CHUNK_FUNCTIONS = 16
"""Functions that are predicted together, so that they fit into a processor's cache."""


@dataclass(frozen=True)
class HeldOut:
    """Functions to measure errors on: contexts first, then targets; double precision except for the noise."""

    x: Tensor
    """Inputs [D, 50 + 64]."""
    y: Tensor
    scale: Tensor
    """Length scales [D]."""
    noise: Tensor
    """Standard normal numbers [S, D, 64], for z."""

    def subset(self, draws: int, samples: int) -> "HeldOut":
        """The first functions, with the first samples of z."""
        return HeldOut(self.x[:draws], self.y[:draws], self.scale[:draws], self.noise[:samples, :draws])


@dataclass(frozen=True)
class Examples:
    """Functions of a figure; double precision except for the noise."""

    x: Sequence[Tensor]
    """Contexts [1, C] of each."""
    y: Sequence[Tensor]
    grid: Tensor
    """Inputs [1, G]."""
    truth: Tensor
    """Values [E, G] without noise."""
    noise: Tensor
    """Standard normal numbers [S, 1, 64], for z."""


def sample(*shape: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [..., points], normal numbers [..., points] and length scales [...] of functions."""
    device = generator.device
    x = torch.rand(*shape, points, generator=generator, device=device) * (INPUTS[1] - INPUTS[0]) + INPUTS[0]
    scale = torch.rand(shape, generator=generator, device=device) * (SCALES[1] - SCALES[0]) + SCALES[0]
    return x, torch.randn(*shape, points, generator=generator, device=device), scale


def held_out(draws: int, samples: int, seed: int, device: torch.device) -> HeldOut:
    """Draw held-out functions, the same ones on every device."""
    generator = torch.Generator().manual_seed(seed)
    x, normal, scale = (v.double() for v in sample(draws, points=POINTS + TARGETS, generator=generator))
    noise = torch.randn(samples, draws, LATENT, generator=generator)
    return HeldOut(*(v.to(device) for v in (x, draw(x, scale, NOISE, normal), scale, noise)))


def make_examples(seed: int, device: torch.device) -> Examples:
    """Draw noisy contexts, together with the function on a grid; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.linspace(*INPUTS, GRID, dtype=torch.float64)
    xs, ys, truth = [], [], []
    for scale, contexts in EXAMPLES:
        x, normal, _ = (v.double() for v in sample(points=contexts + GRID, generator=generator))
        x[contexts:] = grid
        noise = torch.full_like(x, NOISE)
        noise[contexts:] = 1e-4  # too little to see
        y = draw(x, torch.tensor(scale, dtype=torch.float64), noise, normal)
        xs.append(x[None, :contexts].to(device))
        ys.append(y[None, :contexts].to(device))
        truth.append(y[contexts:])
    noise = torch.randn(EXAMPLE_SAMPLES, 1, LATENT, generator=generator)
    return Examples(xs, ys, grid[None].to(device), torch.stack(truth), noise.to(device))


@torch.no_grad()
def errors(network: NeuralProcess, held: HeldOut) -> Tensor:
    """Errors of each function by number of contexts, [2, contexts, D], averaged over targets.

    The first is the negative log-likelihood of a target under the mixture of the predictions for each z, the second
    the squared error of the mixture's mean.
    """
    x, y, rows = held.x.float(), held.y.float(), []
    at, value = x[:, POINTS:], y[:, POINTS:]
    for number in CONTEXTS:
        for low in range(0, len(x), CHUNK_FUNCTIONS):
            chunk = slice(low, low + CHUNK_FUNCTIONS)
            predicted = network.predict(x[chunk, :number], y[chunk, :number], at[chunk], held.noise[:, chunk])
            density = predicted.log_density(value[chunk]).logsumexp(0) - np.log(len(held.noise))
            squared = (predicted.mean.mean(0) - value[chunk]).square()
            rows.append(torch.stack([-density.mean(-1), squared.mean(-1)]))
    return torch.cat(rows, -1).unflatten(-1, (len(CONTEXTS), -1))


def oracle_errors(held: HeldOut) -> Tensor:
    """`errors` of the Gaussian process that the functions are drawn from, which knows each length scale."""
    rows = []
    value = held.y[:, POINTS:]
    for number in CONTEXTS:
        x, y = held.x[:, :number], held.y[:, :number]
        predicted = Gaussian(*posterior(x, y, held.x[:, POINTS:], held.scale, NOISE))
        squared = (predicted.mean - value).square()
        rows.append(torch.stack([-predicted.log_density(value).mean(-1), squared.mean(-1)]))
    return torch.stack(rows, 1)


@torch.no_grad()
def predictions(network: NeuralProcess, examples: Examples) -> list[dict[str, Any]]:
    """Mean and standard deviation [G] of the mixture for each example, and the means [lines, G] for some z."""
    rows = []
    for x, y in zip(examples.x, examples.y, strict=True):
        predicted = network.predict(x.float(), y.float(), examples.grid.float(), examples.noise)
        mean = predicted.mean.mean(0)
        variance = (predicted.sd.square() + predicted.mean.square()).mean(0) - mean.square()
        lines = predicted.mean[:LINES, 0]
        rows.append({"mean": mean[0].tolist(), "sd": variance[0].sqrt().tolist(), "lines": lines.tolist()})
    return rows


def oracle_predictions(examples: Examples) -> list[dict[str, Any]]:
    """`predictions` of the Gaussian process, without lines."""
    rows = []
    for x, y, (length, _) in zip(examples.x, examples.y, EXAMPLES, strict=True):
        mean, sd = posterior(x, y, examples.grid, torch.tensor([length], dtype=x.dtype, device=x.device), NOISE)
        rows.append({"mean": mean[0].tolist(), "sd": sd[0].tolist(), "lines": []})
    return rows
