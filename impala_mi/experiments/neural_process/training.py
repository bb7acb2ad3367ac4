"""Networks that differ in their seed, trained in one stack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from impala_mi.experiments.batched import made, seed_of, stacked
from impala_mi.experiments.neural_process.evaluation import POINTS, HeldOut, errors, sample
from impala_mi.experiments.neural_process.gaussian_process import NOISE, draw
from impala_mi.experiments.neural_process.model import LATENT, Decoder, NeuralProcess, Terms

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


class Stack:
    """Networks with one decoder from several seeds, which learn as one: parameters are [networks, ...]."""

    def __init__(self, decoder: Decoder, seeds: Sequence[int], device: torch.device) -> None:
        networks = [made(seed, lambda: NeuralProcess(decoder)) for seed in seeds]
        self.parameters = stacked(networks, device)
        self.one = networks[0].to(device).requires_grad_(False)

    def terms(self, x: Tensor, y: Tensor, contexts: int, noise: Tensor) -> Terms:
        """As `NeuralProcess`, with a first axis for networks."""

        def of_one(values: dict[str, Tensor], x: Tensor, y: Tensor, noise: Tensor) -> Terms:
            return functional_call(self.one, values, (x, y, contexts, noise))

        return vmap(of_one)(self.parameters, x, y, noise)

    def network(self, number: int) -> NeuralProcess:
        """One of them, until the next is asked for."""
        self.one.load_state_dict({name: p[number] for name, p in self.parameters.items()})
        return self.one

    def errors(self, held: HeldOut) -> Tensor:
        """Of each, [2, networks, contexts, D]."""
        networks = range(len(next(iter(self.parameters.values()))))
        return torch.stack([errors(self.network(number), held) for number in networks], 1)


class Training:
    """A stack that learns from its own stream of functions, which is the same with every decoder."""

    def __init__(self, decoder: Decoder, protocol: Protocol, seed: int, device: torch.device) -> None:
        self.networks = protocol.networks
        # Encoders are made before decoders: those of one seed begin alike with every decoder.
        self.stack = Stack(decoder, [seed_of("network", seed, n) for n in range(self.networks)], device)
        self.learnt = list(self.stack.parameters.values())
        self.optimiser = torch.optim.Adam(self.learnt, protocol.learning_rate, fused=True)
        self.draws = torch.Generator(device).manual_seed(seed_of("draws", seed))
        self.sizes = torch.Generator().manual_seed(seed_of("sizes", seed))

    def learn(self) -> Tensor:
        """`CHUNK` steps; the sums of loss and divergence over them, [2, networks], on the device."""
        x, normal, scale = sample(CHUNK, self.networks, FUNCTIONS, points=POINTS, generator=self.draws)
        y = draw(x, scale, NOISE, normal)
        device = self.draws.device
        noise = torch.randn(CHUNK, self.networks, FUNCTIONS, LATENT, generator=self.draws, device=device)
        contexts = torch.randint(1, POINTS + 1, (CHUNK,), generator=self.sizes)
        targets = contexts + (torch.rand(CHUNK, generator=self.sizes) * (POINTS + 1 - contexts)).long()
        total = torch.zeros(2, self.networks, device=device)
        for step, (c, t) in enumerate(zip(contexts.tolist(), targets.tolist(), strict=True)):
            terms = self.stack.terms(x[step, ..., :t], y[step, ..., :t], c, noise[step])
            loss = terms.loss.mean(-1)
            self.optimiser.zero_grad()
            loss.sum().backward()  # a network's gradient is that of its own loss
            torch.nn.utils.clip_grad_value_(self.learnt, CLIP)
            self.optimiser.step()
            total += torch.stack([loss, terms.divergence.mean(-1)]).detach()
        return total

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "parameters": [p.detach() for p in self.learnt], "optimiser": self.optimiser.state_dict(),
            "draws": self.draws.get_state(), "sizes": self.sizes.get_state(),
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for parameter, value in zip(self.learnt, state["parameters"], strict=True):
            parameter.data.copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        self.draws.set_state(state["draws"])
        self.sizes.set_state(state["sizes"])
