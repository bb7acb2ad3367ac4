"""Networks of many sizes and learning rates, trained in one stack and measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from impala_mi.reproductions.batched import Networks, made, pruned, seed_of
from impala_mi.reproductions.expressivity.needs import Trained
from impala_mi.reproductions.expressivity.networks import MODELS, Network, outputs, targets
from impala_mi.reproductions.study import Study

RATES = (0.1, 0.001, 0.0001)
BATCH = 100
SAMPLES = 10_000
"""That the error is measured on."""
PRUNED_BELOW = 0.001
_STEPS_AT_A_TIME = 50


@dataclass(frozen=True)
class Sweep:
    """Networks that train in one stack."""

    model: str
    width: int
    functions: tuple[str, ...]
    sizes: tuple[int, ...]
    steps: int
    repetitions: int

    @property
    def name(self) -> str:
        """Of a part of the study."""
        return f"width{self.width}-{self.model.replace(' ', '-')}-sizes{self.sizes[0]}-{self.sizes[-1]}"


def train(study: Study, sweep: Sweep, done: Callable[[float], None]) -> list[Trained]:
    """Train and measure all networks of a sweep: every learning rate, function, size and repetition.

    Args:
        study: whose part of the sweep's name is gone on with.
        sweep: what to train.
        done: told the share of the steps that are done.
    """
    kinds = list(product(RATES, sweep.functions, sweep.sizes, range(sweep.repetitions)))
    singles = [_initial(study.seed, sweep, function, size, repetition) for _, function, size, repetition in kinds]
    networks = Networks(singles, [rate for rate, *_ in kinds], shared=True, device=study.device)
    generator = torch.Generator(study.device).manual_seed(seed_of(study.seed, "samples", sweep.width))
    at = 0

    def go_on(before: dict[str, Any]) -> None:
        nonlocal at
        at = before["step"]
        networks.restore(before["networks"])
        generator.set_state(before["generator"])

    study.restore(sweep.name, go_on)
    by_function = (len(RATES), len(sweep.functions), -1)
    while at < sweep.steps:
        x, z = _samples(min(_STEPS_AT_A_TIME, sweep.steps - at), sweep.width, generator)
        y = targets(sweep.functions, x, z)  # [F, steps, B, out]
        for t in range(len(x)):
            wrong = networks(x[t], z[t]).unflatten(0, by_function) - y[:, t].unsqueeze(1)
            networks.step(wrong.square().sum(-1).mean(-1).flatten())
        at += len(x)
        state = {"step": at, "generator": generator.get_state()}
        study.save(sweep.name, lambda: state | {"networks": networks.state()})  # noqa: B023
        done(at / sweep.steps)
    rest, left = pruned(networks.parameters, PRUNED_BELOW)
    measured = [_errors(study, sweep, networks, parameters) for parameters in (networks.parameters, rest)]
    return [
        Trained(function, size, rate, repetition, sum(p.numel() for p in single.parameters()), error, kept, after)
        for (rate, function, size, repetition), single, kept, error, after in zip(
            kinds, singles, left.tolist(), *measured, strict=True
        )
    ]


def _initial(seed: int, sweep: Sweep, function: str, size: int, repetition: int) -> Network:
    """The same for every learning rate."""
    d = sweep.width
    return made(
        seed_of(seed, sweep.model, d, function, size, repetition),
        lambda: MODELS[sweep.model](d, outputs(function, d), size),
    )


def _samples(steps: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x and z of some mini-batches, [steps, B, d] each."""
    both = torch.randn(2, steps, BATCH, width, generator=generator, device=generator.device)
    return both[0], both[1]


@torch.no_grad()
def _errors(
    study: Study, sweep: Sweep, networks: Networks[Network], parameters: dict[str, Tensor]
) -> list[float | None]:
    """[N] errors on samples that no network has seen, the same for all of a width."""
    generator = torch.Generator(study.device).manual_seed(seed_of(study.seed, "test", sweep.width))
    x, z = _samples(SAMPLES // BATCH, sweep.width, generator)
    y = targets(sweep.functions, x, z)
    total = torch.zeros(len(RATES), len(sweep.functions), 1, device=study.device)
    for t in range(len(x)):
        found = networks(x[t], z[t], parameters=parameters)
        wrong = found.unflatten(0, (*total.shape[:2], -1)) - y[:, t].unsqueeze(1)
        total = total + wrong.square().sum(-1).mean(-1)
    return [e if math.isfinite(e) else None for e in (total / len(x)).flatten().tolist()]
