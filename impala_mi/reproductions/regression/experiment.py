"""Every repetition trained, in stacks."""

from dataclasses import asdict

import numpy as np

from impala_mi.reproductions.batched import prepare
from impala_mi.reproductions.findings import Findings
from impala_mi.reproductions.regression.comparison import findings
from impala_mi.reproductions.regression.training import Protocol, train
from impala_mi.reproductions.study import Study

ROWS = 600
"""Tasks of all repetitions in one stack: few enough that activations (4 MB) stay in a processor's cache."""


PAPER = Protocol(tasks=(20, 40, 60), steps=10_000, repetitions=60)
QUICK = Protocol(tasks=(20, 40, 60), steps=6_000, repetitions=10)


def run(study: Study) -> Findings:
    """Train every repetition, and compare the models."""
    protocol = QUICK if study.quick else PAPER
    study.begin(**asdict(protocol))
    prepare()
    whole, before = sum(protocol.tasks) * protocol.repetitions, 0
    curves: dict[int, np.ndarray] = {}
    for tasks in protocol.tasks:
        stacks = []
        for start in range(0, protocol.repetitions, ROWS // tasks):
            some = range(start, min(start + ROWS // tasks, protocol.repetitions))
            rows = tasks * len(some)
            stacks.append(_done_or_trained(study, tasks, some, protocol.steps, before / whole, rows / whole))
            before += rows
        curves[tasks] = np.concatenate(stacks, axis=2)
    return findings(curves, protocol)


def _done_or_trained(
    study: Study, tasks: int, repetitions: range, steps: int, before: float, share: float
) -> np.ndarray:
    """A part of the study, with its share and that of what came before; curves as of `train`."""
    name = f"tasks{tasks}-repetitions{repetitions.start}-{repetitions[-1]}"

    def done(of_part: float) -> None:
        study.progress(before + of_part * share, f"{tasks} tasks, repetition {repetitions[-1] + 1}")

    done(0.0)
    part = study.part(name, lambda: {"curve": train(study, name, tasks, repetitions, steps, done).tolist()})
    return np.array(part["curve"])
