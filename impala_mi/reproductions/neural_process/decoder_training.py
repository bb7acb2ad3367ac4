"""Networks with the same decoder and different seeds, trained in one stack."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from impala_mi.reproductions.network_stack import NetworkStack, make_seeded, seed_of
from impala_mi.reproductions.neural_process.decoders import LATENT, Decoder, ElboTerms, NeuralProcess
from impala_mi.reproductions.neural_process.gaussian_process import NOISE, draw
from impala_mi.reproductions.neural_process.held_out import POINTS, HeldOut, errors, sample

FUNCTIONS = 16
"""Functions of a step."""
CLIP = 10.0
"""Largest absolute value of a gradient's element."""
CHUNK = 25
"""Steps whose functions are drawn together."""


@dataclass(frozen=True)
class NeuralProcessProtocol:
    """Networks to train, for how long, and how their errors are measured."""

    networks: int
    """Networks with each decoder, one per seed."""
    steps: int
    every: int
    """Steps between points of a curve; a multiple of `CHUNK`."""
    learning_rate: float
    draws: int
    """Held-out functions."""
    samples: int
    """Samples of z for each function."""
    curve_draws: int
    """Held-out functions for a point of a curve."""
    curve_samples: int


class DecoderTraining:
    """A stack that learns from its own stream of functions, which is the same with every decoder."""

    def __init__(self, decoder: Decoder, protocol: NeuralProcessProtocol, seed: int, device: torch.device) -> None:
        # Encoders are made before decoders, so networks of one seed start alike with every decoder.
        seeds = [seed_of("network", seed, n) for n in range(protocol.networks)]
        singles = [make_seeded(own, lambda: NeuralProcess(decoder)) for own in seeds]
        rates = [protocol.learning_rate] * len(singles)
        self.networks = NetworkStack(singles, rates, shared=False, device=device, clip=CLIP)
        self.count = len(singles)
        self.draws = torch.Generator(device).manual_seed(seed_of("draws", seed))
        self.sizes = torch.Generator().manual_seed(seed_of("sizes", seed))

    def learn(self) -> Tensor:
        """Take `CHUNK` steps; return the sums of loss and divergence over them, [2, networks], on the device."""
        x, normal, scale = sample(CHUNK, self.count, FUNCTIONS, points=POINTS, generator=self.draws)
        y = draw(x, scale, NOISE, normal)
        device = self.draws.device
        noise = torch.randn(CHUNK, self.count, FUNCTIONS, LATENT, generator=self.draws, device=device)
        contexts = torch.randint(1, POINTS + 1, (CHUNK,), generator=self.sizes)
        targets = contexts + (torch.rand(CHUNK, generator=self.sizes) * (POINTS + 1 - contexts)).long()
        total = torch.zeros(2, self.count, device=device)
        for step, (c, t) in enumerate(zip(contexts.tolist(), targets.tolist(), strict=True)):
            terms: ElboTerms = self.networks(x[step, ..., :t], y[step, ..., :t], c, noise[step])
            loss = terms.loss.mean(-1)
            self.networks.step(loss)
            total += torch.stack([loss, terms.divergence.mean(-1)]).detach()
        return total

    def errors(self, held: HeldOut) -> Tensor:
        """Errors of each network, [2, networks, contexts, D]."""
        return torch.stack([errors(self.networks.network(number), held) for number in range(self.count)], 1)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "networks": self.networks.state(), "draws": self.draws.get_state(), "sizes": self.sizes.get_state()
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a `state`."""
        self.networks.restore(state["networks"])
        self.draws.set_state(state["draws"])
        self.sizes.set_state(state["sizes"])
