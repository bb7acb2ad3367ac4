"""Tasks, and all models of several repetitions that learn them in one stack."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impala_mi.nn.meta import num_parameters
from impala_mi.reproductions.network_stack import NetworkStack, make_seeded, prepare_process, seed_of
from impala_mi.reproductions.regression.regression_report import curve_data, report_from_data
from impala_mi.reproductions.regression.task_models import MODELS
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import StudyReport, as_stored

BATCH = 50
"""Samples of each task per step."""
RATE = 3e-3
"""Learning rate."""
POINTS = 100
"""Points of a learning curve."""
ROWS = 600
"""Tasks of all repetitions in one stack; their activations (4 MB) stay in a processor's cache."""


@dataclass(frozen=True)
class RegressionProtocol:
    """Networks to train and for how long."""

    tasks: tuple[int, ...]
    """Numbers of tasks, which are even."""
    steps: int
    """Training steps, a multiple of `POINTS`."""
    repetitions: int


PAPER = RegressionProtocol(tasks=(20, 40, 60), steps=10_000, repetitions=60)
QUICK = RegressionProtocol(tasks=(20, 40, 60), steps=6_000, repetitions=10)


def run_study(study: Study) -> StudyReport:
    """Train every repetition, and compare the models."""
    protocol = QUICK if study.quick else PAPER
    study.begin(**asdict(protocol))
    prepare_process()
    total, before = sum(protocol.tasks) * protocol.repetitions, 0
    curves: dict[int, np.ndarray] = {}
    for tasks in protocol.tasks:
        stacks = []
        for start in range(0, protocol.repetitions, ROWS // tasks):
            repetitions = range(start, min(start + ROWS // tasks, protocol.repetitions))
            rows = tasks * len(repetitions)
            stacks.append(stack_part(study, tasks, repetitions, protocol.steps, before / total, rows / total))
            before += rows
        curves[tasks] = np.concatenate(stacks, axis=2)
    data = {
        str(tasks): curve_data(curve, [num_parameters(make(tasks)) for make in MODELS.values()])
        for tasks, curve in curves.items()
    }
    return report_from_data(as_stored({"protocol": asdict(protocol), "curves": data}))


def stack_part(study: Study, tasks: int, repetitions: range, steps: int, before: float, share: float) -> np.ndarray:
    """Curves (see `train_stack`) of one part; `before` and `share` are shares of the study's progress."""
    name = f"tasks{tasks}-repetitions{repetitions.start}-{repetitions[-1]}"

    def progress(share_of_part: float) -> None:
        study.progress(before + share_of_part * share, f"{tasks} tasks, repetition {repetitions[-1] + 1}")

    progress(0.0)
    part = study.part(
        name, lambda: {"curve": train_stack(study, name, tasks, repetitions, steps, progress).tolist()}
    )
    return np.array(part["curve"])


def task_values(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Values [..., T, B]: a x + b for the first half of the tasks, else a sin(10 x) + b; a, b [..., T, 1]."""
    affine, sine = x.chunk(2, -2)
    return torch.cat([affine, torch.sin(10 * sine)], -2) * a + b


def train_stack(
    study: Study, name: str, tasks: int, repetitions: range, steps: int, progress: Callable[[float], None]
) -> np.ndarray:
    """Train all models of several repetitions.

    Args:
        study: study whose part `name` is continued.
        name: name of the part.
        tasks: T.
        repetitions: numbers of the repetitions.
        steps: training steps, P times the steps of a point.
        progress: callback that receives the share that is done.

    Returns:
        Learning curves [models, P, R, 2]: mean training error of affine functions and of sines.
    """
    device = study.device
    initial = {
        model: [make_seeded(seed_of(study.seed, model, tasks, r), lambda: make(tasks)) for r in repetitions]  # noqa: B023
        for model, make in MODELS.items()
    }
    stacks = [NetworkStack(n, [RATE] * len(n), shared=False, device=device) for n in initial.values()]
    generator = torch.Generator(device).manual_seed(seed_of(study.seed, tasks, repetitions.start))
    a, b = torch.rand(2, len(repetitions), tasks, 1, generator=generator, device=device)
    curve = torch.zeros(len(stacks), POINTS, len(repetitions), 2, device=device)
    point = 0

    def load(state: dict[str, Any]) -> None:
        nonlocal point
        point = state["point"]
        curve.copy_(state["curve"])
        generator.set_state(state["generator"])
        for stack, saved in zip(stacks, state["networks"], strict=True):
            stack.restore(saved)

    study.restore(name, load)
    length = steps // POINTS
    while point < POINTS:
        for _ in range(length):
            x = torch.rand(len(repetitions), tasks, BATCH, generator=generator, device=device) * 2 - 1
            y = task_values(x, a, b)
            for number, stack in enumerate(stacks):
                error = (stack(x) - y).square().mean(-1)  # [R, T]
                stack.step(error.mean(1))
                curve[number, point] += error.detach().unflatten(1, (2, -1)).mean(-1)
        curve[:, point] /= length
        point += 1
        state = {"point": point, "generator": generator.get_state()}
        study.save(name, lambda: state | {"curve": curve, "networks": [stack.state() for stack in stacks]})  # noqa: B023
        progress(point / POINTS)
    return curve.double().cpu().numpy()
