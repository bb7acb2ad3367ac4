"""Who learns better and sooner."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from impala_mi.reproductions.findings import Cell, Findings, Table
from impala_mi.reproductions.regression.figures import draw
from impala_mi.reproductions.regression.models import MODELS, OTHERS, OURS
from impala_mi.reproductions.regression.training import POINTS, Protocol


@dataclass(frozen=True)
class Mean:
    """Over repetitions."""

    mean: float
    error: float
    """Standard error."""
    count: int

    @property
    def sure(self) -> bool:
        """Whether it is above 0 by a two-sided interval of 95 % (Student's t)."""
        return self.mean - float(stats.t.ppf(0.975, self.count - 1)) * self.error > 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def mean_of(some: np.ndarray) -> Mean:
    """Mean and standard error of [R] numbers."""
    return Mean(float(some.mean()), float(stats.sem(some)), len(some))


@dataclass(frozen=True)
class Lead:
    """Decades by which our model's error of all tasks is below another's, in pairs of repetitions."""

    end: Mean
    """At the last point of the curves."""
    throughout: Mean
    """Mean over all points: who learns sooner."""


def lead(other: np.ndarray, ours: np.ndarray) -> Lead:
    """Of curves [P, R]."""
    return Lead(mean_of(other[-1] - ours[-1]), mean_of((other - ours).mean(0)))


def logs(curve: np.ndarray) -> np.ndarray:
    """log10 of training errors [models, P, R, 2]: [models, P, R, 3] of all tasks, affine ones and sines."""
    return np.log10(np.concatenate([curve.mean(-1, keepdims=True), curve], -1))


def findings(curves: Mapping[int, np.ndarray], protocol: Protocol) -> Findings:
    """Table, figures and verdict of the curves [models, P, R, 2] by number of tasks."""
    by = {tasks: logs(curve) for tasks, curve in curves.items()}
    rows: list[list[Cell]] = []
    for tasks, log in by.items():
        for number, (model, make) in enumerate(MODELS.items()):
            shown = [str(mean_of(some)) for some in (*log[number, -1].T, log[number, :, :, 0].mean(0))]
            size = sum(p.numel() for p in make(tasks).parameters())
            rows.append([f"{tasks} tasks, {model}", size, *shown, _overtaken(log, number, protocol.steps)])
    leads = {
        tasks: {model: lead(log[number, ..., 0], log[-1, ..., 0]) for number, model in enumerate(OTHERS)}
        for tasks, log in by.items()
    }
    how = (
        f"log10 of the training error (mean squared) over the last 1/{POINTS} of {protocol.steps:,} steps: mean ± "
        f"standard error of {protocol.repetitions} repetitions; throughout: mean over the whole curve of all "
        f"tasks; overtaken: the step by which the mean curve of the {OURS} is where this model ends"
    )
    ahead = [
        [f"{tasks} tasks, {when}", *(str(getattr(some[other], when)) for other in OTHERS)]
        for when in ("end", "throughout") for tasks, some in leads.items()
    ]  # fmt: skip
    return Findings(
        claim="a task-conditioned multiplicative layer learns both kinds of tasks better and sooner than a "
        "conditional and a multiheaded MLP, the more so the more tasks there are.",
        verdict=verdict(leads),
        tables=[
            Table(how, ["", "parameters", "all tasks", "affine", "sines", "throughout", "overtaken"], rows),
            Table(f"Decades by which the {OURS} is ahead, pair by pair of all tasks' errors", ["", *OTHERS], ahead),
        ],
        figures={"figure3": draw(by, [0], protocol.steps), "kinds": draw(by, [1, 2], protocol.steps)},
        data={"protocol": asdict(protocol), "x": "U[-1, 1]", "log": "base 10", "curves": _data(by)},
    )


def _overtaken(log: np.ndarray, model: int, steps: int) -> int | None:
    """The step by which our mean curve is where a model ends; None where it never is."""
    ours = log[-1, :, :, 0].mean(-1)
    below = np.flatnonzero(ours <= log[model, -1, :, 0].mean())
    return int((below[0] + 1) * steps // POINTS) if len(below) else None


def verdict(leads: Mapping[int, Mapping[str, Lead]]) -> str:
    """Held: ahead of both others at the end and throughout for every number of tasks, at the end by more of more.

    Each of these is sure where an interval of 95 % is above 0; the last compares the most and the fewest tasks. The
    leads are in a table.

    Args:
        leads: over each other model, by number of tasks.
    """
    said, held = [], []
    for other in OTHERS:
        some = {tasks: by[other] for tasks, by in leads.items()}
        end, sooner = [x.end.sure for x in some.values()], [x.throughout.sure for x in some.values()]
        few, many = some[min(some)].end, some[max(some)].end
        more = Mean(many.mean - few.mean, float(np.hypot(many.error, few.error)), few.count)
        held += [*end, *sooner, more.sure]
        said.append(
            f"ahead of the {other} with {_which(end, some)} tasks at the end, {_which(sooner, some)} throughout, "
            f"by {more} decades more with {max(some)} than with {min(some)} "
            f"({'sure' if more.sure else 'not sure'})"
        )
    how = "held" if all(held) else "held in part" if any(held) else "did not hold"
    return (
        f"{how}, {sum(held)} of {len(held)} statements. The {OURS} is, for sure (95 %), {'; it is '.join(said)} "
        "(± standard error)."
    )


def _which(sure: Sequence[bool], tasks: Iterable[int]) -> str:
    """Of numbers of tasks."""
    return ", ".join(str(t) for s, t in zip(sure, tasks, strict=True) if s) or "no number of"


def _data(by: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """By number of tasks, model and kind: mean and standard error of the curve [P], final values [R]."""
    return {
        str(tasks): {
            model: {
                kind: {
                    "mean": some.mean(-1).tolist(),
                    "error": stats.sem(some, -1).tolist(),
                    "final": some[-1].tolist(),
                }
                for kind, some in zip(("all", "affine", "sine"), np.moveaxis(curve, -1, 0), strict=True)
            }
            for model, curve in zip(MODELS, log, strict=True)
        }
        for tasks, log in by.items()
    }
