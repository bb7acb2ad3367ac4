"""Tasks, and all models of some repetitions that learn them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impala_mi.reproductions.batched import Networks, made, seed_of
from impala_mi.reproductions.regression.models import MODELS
from impala_mi.reproductions.study import Study

BATCH = 50
"""Samples of each task in a step."""
RATE = 3e-3
POINTS = 100
"""Of a learning curve."""


@dataclass(frozen=True)
class Protocol:
    """How much is trained."""

    tasks: tuple[int, ...]
    """Even."""
    steps: int
    """A multiple of `POINTS`."""
    repetitions: int


def values(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """[..., T, B] a x + b of the first half of the tasks and a sin(10 x) + b of the others; a and b [..., T, 1]."""
    affine, sine = x.chunk(2, -2)
    return torch.cat([affine, torch.sin(10 * sine)], -2) * a + b


def train(
    study: Study, name: str, tasks: int, repetitions: range, steps: int, done: Callable[[float], None]
) -> np.ndarray:
    """Learning curves [models, P, R, 2] of some repetitions: mean training error of affine functions and of sines.

    Args:
        study: whose state named `name` is gone on with.
        name: of the part.
        tasks: T.
        repetitions: which.
        steps: to train for, P points.
        done: told the share that is done.
    """
    device = study.device
    initial = {
        model: [made(seed_of(study.seed, model, tasks, r), lambda: make(tasks)) for r in repetitions]  # noqa: B023
        for model, make in MODELS.items()
    }
    networks = [Networks(some, [RATE] * len(some), shared=False, device=device) for some in initial.values()]
    generator = torch.Generator(device).manual_seed(seed_of(study.seed, tasks, repetitions.start))
    a, b = torch.rand(2, len(repetitions), tasks, 1, generator=generator, device=device)
    curve = torch.zeros(len(networks), POINTS, len(repetitions), 2, device=device)
    at = 0

    def go_on(before: dict[str, Any]) -> None:
        nonlocal at
        at = before["point"]
        curve.copy_(before["curve"])
        generator.set_state(before["generator"])
        for some, state in zip(networks, before["networks"], strict=True):
            some.restore(state)

    study.restore(name, go_on)
    length = steps // POINTS
    while at < POINTS:
        for _ in range(length):
            x = torch.rand(len(repetitions), tasks, BATCH, generator=generator, device=device) * 2 - 1
            y = values(x, a, b)
            for number, some in enumerate(networks):
                error = (some(x) - y).square().mean(-1)  # [R, T]
                some.step(error.mean(1))
                curve[number, at] += error.detach().unflatten(1, (2, -1)).mean(-1)
        curve[:, at] /= length
        at += 1
        state = {"point": at, "generator": generator.get_state()}
        study.save(name, lambda: state | {"curve": curve, "networks": [some.state() for some in networks]})  # noqa: B023
        done(at / POINTS)
    return curve.double().cpu().numpy()
