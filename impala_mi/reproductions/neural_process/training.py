"""Networks of one decoder that differ in their seed, trained in one stack."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from impala_mi.reproductions.batched import Networks, made, seed_of
from impala_mi.reproductions.neural_process.evaluation import POINTS, HeldOut, errors, sample
from impala_mi.reproductions.neural_process.gaussian_process import NOISE, draw
from impala_mi.reproductions.neural_process.model import LATENT, Decoder, NeuralProcess, Terms

FUNCTIONS = 16
"""Of a step."""
CLIP = 10.0
CHUNK = 25
"""Steps whose functions are drawn at once."""


@dataclass(frozen=True)
class Protocol:
    """How much is done."""

    networks: int
    """With each decoder, from seeds of their own."""
    steps: int
    every: int
    """Steps between points of a curve; a multiple of `CHUNK`."""
    learning_rate: float
    draws: int
    """Held-out functions."""
    samples: int
    """Of z for each."""
    curve_draws: int
    curve_samples: int


class Training:
    """A stack that learns from its own stream of functions, which is the same with every decoder."""

    def __init__(self, decoder: Decoder, protocol: Protocol, seed: int, device: torch.device) -> None:
        # Encoders are made before decoders: those of one seed begin alike with every decoder.
        seeds = [seed_of("network", seed, n) for n in range(protocol.networks)]
        singles = [made(own, lambda: NeuralProcess(decoder)) for own in seeds]
        rates = [protocol.learning_rate] * len(singles)
        self.networks = Networks(singles, rates, shared=False, device=device, clip=CLIP)
        self.count = len(singles)
        self.draws = torch.Generator(device).manual_seed(seed_of("draws", seed))
        self.sizes = torch.Generator().manual_seed(seed_of("sizes", seed))

    def learn(self) -> Tensor:
        """`CHUNK` steps; the sums of loss and divergence over them, [2, networks], on the device."""
        x, normal, scale = sample(CHUNK, self.count, FUNCTIONS, points=POINTS, generator=self.draws)
        y = draw(x, scale, NOISE, normal)
        device = self.draws.device
        noise = torch.randn(CHUNK, self.count, FUNCTIONS, LATENT, generator=self.draws, device=device)
        contexts = torch.randint(1, POINTS + 1, (CHUNK,), generator=self.sizes)
        targets = contexts + (torch.rand(CHUNK, generator=self.sizes) * (POINTS + 1 - contexts)).long()
        total = torch.zeros(2, self.count, device=device)
        for step, (c, t) in enumerate(zip(contexts.tolist(), targets.tolist(), strict=True)):
            terms: Terms = self.networks(x[step, ..., :t], y[step, ..., :t], c, noise[step])
            loss = terms.loss.mean(-1)
            self.networks.step(loss)
            total += torch.stack([loss, terms.divergence.mean(-1)]).detach()
        return total

    def errors(self, held: HeldOut) -> Tensor:
        """Of each network, [2, networks, contexts, D]."""
        return torch.stack([errors(self.networks.network(number), held) for number in range(self.count)], 1)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "networks": self.networks.state(), "draws": self.draws.get_state(), "sizes": self.sizes.get_state()
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.networks.restore(state["networks"])
        self.draws.set_state(state["draws"])
        self.sizes.set_state(state["sizes"])
