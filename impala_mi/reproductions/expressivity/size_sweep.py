"""Networks of many sizes and learning rates, trained in one stack and measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from impala_mi.nn.meta import num_parameters
from impala_mi.reproductions.expressivity.min_params import TrainedNetwork
from impala_mi.reproductions.expressivity.shallow_networks import MODELS, ShallowNetwork, outputs, targets
from impala_mi.reproductions.network_stack import NetworkStack, make_seeded, prune, seed_of
from impala_mi.reproductions.study import Study

RATES = (0.1, 0.001, 0.0001)
"""Learning rates."""
BATCH = 100
SAMPLES = 10_000
"""Samples on which the error is measured."""
PRUNED_BELOW = 0.001
"""Absolute value below which a parameter is pruned."""
_STEPS_AT_A_TIME = 50


@dataclass(frozen=True)
class SizeSweep:
    """Networks that train in one stack."""

    model: str
    width: int
    functions: tuple[str, ...]
    sizes: tuple[int, ...]
    steps: int
    repetitions: int

    @property
    def name(self) -> str:
        """Name of the study's part."""
        return f"width{self.width}-{self.model.replace(' ', '-')}-sizes{self.sizes[0]}-{self.sizes[-1]}"


def train_sweep(study: Study, sweep: SizeSweep, progress: Callable[[float], None]) -> list[TrainedNetwork]:
    """Train and measure all networks of a sweep: every learning rate, function, size and repetition.

    Args:
        study: study whose part of the sweep's name is continued.
        sweep: networks to train.
        progress: callback that receives the share of the steps that are done.
    """
    kinds = list(product(RATES, sweep.functions, sweep.sizes, range(sweep.repetitions)))
    singles = [_initial(study.seed, sweep, function, size, repetition) for _, function, size, repetition in kinds]
    networks = NetworkStack(singles, [rate for rate, *_ in kinds], shared=True, device=study.device)
    generator = torch.Generator(study.device).manual_seed(seed_of(study.seed, "samples", sweep.width))
    step = 0

    def load(state: dict[str, Any]) -> None:
        nonlocal step
        step = state["step"]
        networks.restore(state["networks"])
        generator.set_state(state["generator"])

    study.restore(sweep.name, load)
    by_function = (len(RATES), len(sweep.functions), -1)
    while step < sweep.steps:
        x, z = _samples(min(_STEPS_AT_A_TIME, sweep.steps - step), sweep.width, generator)
        y = targets(sweep.functions, x, z)  # [F, steps, B, out]
        for t in range(len(x)):
            wrong = networks(x[t], z[t]).unflatten(0, by_function) - y[:, t].unsqueeze(1)
            networks.step(wrong.square().sum(-1).mean(-1).flatten())
        step += len(x)
        state = {"step": step, "generator": generator.get_state()}
        study.save(sweep.name, lambda: state | {"networks": networks.state()})  # noqa: B023
        progress(step / sweep.steps)
    pruned, counts = prune(networks.parameters, PRUNED_BELOW)
    measured = [_errors(study, sweep, networks, parameters) for parameters in (networks.parameters, pruned)]
    return [
        TrainedNetwork(function, size, rate, repetition, num_parameters(single), error, kept, after)
        for (rate, function, size, repetition), single, kept, error, after in zip(
            kinds, singles, counts.tolist(), *measured, strict=True
        )
    ]


def _initial(seed: int, sweep: SizeSweep, function: str, size: int, repetition: int) -> ShallowNetwork:
    """Initial network, the same for every learning rate."""
    d = sweep.width
    return make_seeded(
        seed_of(seed, sweep.model, d, function, size, repetition),
        lambda: MODELS[sweep.model](d, outputs(function, d), size),
    )


def _samples(steps: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x and z of some mini-batches, [steps, B, d] each."""
    both = torch.randn(2, steps, BATCH, width, generator=generator, device=generator.device)
    return both[0], both[1]


@torch.no_grad()
def _errors(
    study: Study, sweep: SizeSweep, networks: NetworkStack[ShallowNetwork], parameters: dict[str, Tensor]
) -> list[float | None]:
    """Errors [N] on samples that no network was trained on, the same for all networks of a width."""
    generator = torch.Generator(study.device).manual_seed(seed_of(study.seed, "test", sweep.width))
    x, z = _samples(SAMPLES // BATCH, sweep.width, generator)
    y = targets(sweep.functions, x, z)
    total = torch.zeros(len(RATES), len(sweep.functions), 1, device=study.device)
    for t in range(len(x)):
        predicted = networks(x[t], z[t], parameters=parameters)
        wrong = predicted.unflatten(0, (*total.shape[:2], -1)) - y[:, t].unsqueeze(1)
        total = total + wrong.square().sum(-1).mean(-1)
    return [e if math.isfinite(e) else None for e in (total / len(x)).flatten().tolist()]
