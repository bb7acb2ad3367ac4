"""Comparison of the models: who learns better and sooner, with tables and figure 3."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from impala_mi.analysis.stats import standard_error, t_factor
from impala_mi.nn.meta import num_parameters
from impala_mi.reproductions.regression.task_models import BASELINES, MODELS, OURS
from impala_mi.reproductions.study_report import Cell, ResultTable, StudyReport

_COLOURS = dict(zip(MODELS, ("tab:blue", "tab:orange", "tab:green"), strict=True))


@dataclass(frozen=True)
class RepetitionMean:
    """Mean over repetitions."""

    mean: float
    error: float
    """Standard error."""
    count: int

    @property
    def sure(self) -> bool:
        """Whether the two-sided 95 % interval (Student's t) is above 0."""
        return self.mean - float(t_factor(self.count)) * self.error > 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def mean_over_repetitions(values: np.ndarray) -> RepetitionMean:
    """Mean and standard error of [R] numbers."""
    return RepetitionMean(float(values.mean()), float(standard_error(values)), len(values))


@dataclass(frozen=True)
class Lead:
    """Decades by which our model's error over all tasks is below a baseline's, in pairs of repetitions."""

    end: RepetitionMean
    """Lead at the last point of the curves."""
    throughout: RepetitionMean
    """Mean lead over all points, which measures who learns sooner."""


def lead(baseline: np.ndarray, ours: np.ndarray) -> Lead:
    """Lead of our curves [P, R] over a baseline's."""
    ahead = baseline - ours
    return Lead(mean_over_repetitions(ahead[-1]), mean_over_repetitions(ahead.mean(0)))


def log_errors(curve: np.ndarray) -> np.ndarray:
    """log10 of training errors [models, P, R, 2]: [models, P, R, 3] for all tasks, affine ones and sines."""
    return np.log10(np.concatenate([curve.mean(-1, keepdims=True), curve], -1))


def regression_report(curves: Mapping[int, np.ndarray], protocol: Mapping[str, Any]) -> StudyReport:
    """Tables, figures and verdict for the curves [models, P, R, 2] by number of tasks."""
    by = {tasks: log_errors(curve) for tasks, curve in curves.items()}
    steps, points = protocol["steps"], next(iter(by.values())).shape[1]
    rows: list[list[Cell]] = []
    for tasks, log in by.items():
        for number, (model, make) in enumerate(MODELS.items()):
            columns = (*log[number, -1].T, log[number, :, :, 0].mean(0))
            means = [str(mean_over_repetitions(column)) for column in columns]
            rows.append(
                [f"{tasks} tasks, {model}", num_parameters(make(tasks)), *means, _overtaken(log, number, steps)]
            )
    leads = {
        tasks: {model: lead(log[number, ..., 0], log[-1, ..., 0]) for number, model in enumerate(BASELINES)}
        for tasks, log in by.items()
    }
    title = (
        f"log10 of the training error (mean squared) over the last 1/{points} of {steps:,} steps: mean ± "
        f"standard error of {protocol['repetitions']} repetitions; throughout: mean over the whole curve of all "
        f"tasks; overtaken: the step by which the mean curve of the {OURS} is where this model ends"
    )
    ahead = [
        [f"{tasks} tasks, {when}", *(str(getattr(by_model[model], when)) for model in BASELINES)]
        for when in ("end", "throughout") for tasks, by_model in leads.items()
    ]  # fmt: skip
    return StudyReport(
        claim="a task-conditioned multiplicative layer learns both kinds of tasks better and sooner than a "
        "conditional and a multiheaded MLP, the more so the more tasks there are.",
        verdict=verdict(leads),
        tables=[
            ResultTable(title, ["", "parameters", "all tasks", "affine", "sines", "throughout", "overtaken"], rows),
            ResultTable(
                f"Decades by which the {OURS} is ahead, pair by pair of all tasks' errors", ["", *BASELINES], ahead
            ),
        ],
        figures={"figure3": draw(by, [0], steps), "kinds": draw(by, [1, 2], steps)},
        data={"protocol": protocol, "x": "U[-1, 1]", "log": "base 10", "curves": _data(by)},
    )


def _overtaken(log: np.ndarray, model: int, steps: int) -> int | None:
    """Step by which our mean curve is where a model ends, or None if it never is."""
    ours = log[-1, :, :, 0].mean(-1)
    below = np.flatnonzero(ours <= log[model, -1, :, 0].mean())
    return int((below[0] + 1) * steps // len(ours)) if len(below) else None


def verdict(leads: Mapping[int, Mapping[str, Lead]]) -> str:
    """Verdict from the leads over each baseline by number of tasks.

    The claim held if our model is ahead of both baselines at the end and throughout for every number of tasks, and
    its lead at the end is larger for the most tasks than for the fewest. Each statement needs a 95 % interval
    above 0.
    """
    texts, held = [], []
    for model in BASELINES:
        own = {tasks: by[model] for tasks, by in leads.items()}
        end, sooner = [x.end.sure for x in own.values()], [x.throughout.sure for x in own.values()]
        few, many = own[min(own)].end, own[max(own)].end
        growth = RepetitionMean(many.mean - few.mean, float(np.hypot(many.error, few.error)), few.count)
        held += [*end, *sooner, growth.sure]
        texts.append(
            f"ahead of the {model} with {_numbers(end, own)} tasks at the end, {_numbers(sooner, own)} throughout, "
            f"by {growth} decades more with {max(own)} than with {min(own)} "
            f"({'sure' if growth.sure else 'not sure'})"
        )
    word = "held" if all(held) else "held in part" if any(held) else "did not hold"
    return (
        f"{word}, {sum(held)} of {len(held)} statements. The {OURS} is, for sure (95 %), {'; it is '.join(texts)} "
        "(± standard error)."
    )


def _numbers(sure: Sequence[bool], tasks: Iterable[int]) -> str:
    """Numbers of tasks with a sure lead."""
    return ", ".join(str(t) for s, t in zip(sure, tasks, strict=True) if s) or "no number of"


def _data(by: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """Mean and standard error of the curve [P], and final values [R], by number of tasks, model and kind."""
    return {
        str(tasks): {
            model: {
                kind: {
                    "mean": values.mean(-1).tolist(),
                    "error": standard_error(values).tolist(),
                    "final": values[-1].tolist(),
                }
                for kind, values in zip(("all", "affine", "sine"), np.moveaxis(curve, -1, 0), strict=True)
            }
            for model, curve in zip(MODELS, log, strict=True)
        }
        for tasks, log in by.items()
    }


def draw(by: Mapping[int, np.ndarray], kinds: Sequence[int], steps: int) -> Figure:
    """Mean curves with standard errors: one column per number of tasks, one row per kind of tasks."""
    figure = Figure(figsize=(4.1 * len(by), 0.6 + 3.3 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(by), sharex=True, sharey="row", squeeze=False)
    for row, kind in zip(panels, kinds, strict=True):
        for axes, (tasks, log) in zip(row, by.items(), strict=True):
            at = (np.arange(log.shape[1]) + 1) * steps / log.shape[1]
            for model, curve in zip(MODELS, log[..., kind], strict=True):  # [P, R]
                mean, error = curve.mean(-1), standard_error(curve)
                (line,) = axes.plot(at, mean, label=model, linewidth=1.5, color=_COLOURS[model])
                axes.fill_between(at, mean - error, mean + error, color=line.get_color(), alpha=0.25, linewidth=0)
            axes.set_title(f"{tasks} tasks" + ("", ": affine", ": sines")[kind])
            axes.grid(alpha=0.3)
        row[0].set_ylabel("log10 of the training error")
    for axes in panels[-1]:
        axes.set_xlabel("training steps")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
