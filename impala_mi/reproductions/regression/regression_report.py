"""Comparison of the models: who learns better and sooner, with tables and figure 3."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from impala_mi.analysis.stats import bonferroni, standard_error, t_factor
from impala_mi.reproductions.regression.task_models import BASELINES, MODELS, OURS
from impala_mi.reproductions.study_report import Cell, ResultTable, StudyReport, as_numbers

_COLOURS = dict(zip(MODELS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
KINDS = {"all": "", "affine": ": affine", "sine": ": sines"}
"""Kinds of tasks, and their words in titles."""
CLAIM = (
    "a task-conditioned multiplicative layer learns both kinds of tasks better and sooner than a conditional and a "
    "multiheaded MLP, the more so the more tasks there are."
)
Curves = Mapping[str, Mapping[str, Any]]
"""Results of `curve_data` by number of tasks (as text) and model."""


@dataclass(frozen=True)
class RepetitionMean:
    """Mean over repetitions."""

    mean: float
    error: float
    """Standard error."""
    count: int

    def above_zero(self, level: float) -> bool:
        """Whether the two-sided interval (Student's t) of that confidence level is above 0."""
        return self.mean - float(t_factor(self.count, level)) * self.error > 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def mean_over_repetitions(values: Sequence[float] | np.ndarray) -> RepetitionMean:
    """Mean and standard error of [R] numbers."""
    return RepetitionMean(float(np.mean(values)), float(standard_error(np.asarray(values))), len(values))


@dataclass(frozen=True)
class Lead:
    """Decades by which our model's error over all tasks is below a baseline's, in pairs of repetitions."""

    end: RepetitionMean
    """Lead at the last point of the curves."""
    throughout: RepetitionMean
    """Mean lead over all points, which measures who learns sooner."""


def lead(baseline: Mapping[str, Any], ours: Mapping[str, Any]) -> Lead:
    """Lead of our model over a baseline, each a model's results in `curve_data`."""
    end = np.subtract(baseline["all"]["final"], ours["all"]["final"])
    return Lead(
        mean_over_repetitions(end), mean_over_repetitions(np.subtract(baseline["throughout"], ours["throughout"]))
    )


def log_errors(curve: np.ndarray) -> np.ndarray:
    """log10 of training errors [models, P, R, 2]: [models, P, R, 3] for all tasks, affine ones and sines."""
    return np.log10(np.concatenate([curve.mean(-1, keepdims=True), curve], -1))


def curve_data(curve: np.ndarray, parameters: Sequence[int]) -> dict[str, Any]:
    """Data of a report, made of training errors [models, P, R, 2], by model, in log10.

    For each kind of tasks: mean [P] and standard error [P] of the curve and its values [R] at the end. Over all
    tasks: `throughout` [R], the means over the curve.
    """
    return {
        model: {
            "parameters": count,
            "throughout": log[..., 0].mean(0).tolist(),
            **{
                kind: {
                    "mean": values.mean(-1).tolist(),
                    "error": standard_error(values).tolist(),
                    "final": values[-1].tolist(),
                }
                for kind, values in zip(KINDS, np.moveaxis(log, -1, 0), strict=True)
            },
        }
        for model, log, count in zip(MODELS, log_errors(curve), parameters, strict=True)
    }


def report_from_data(data: Mapping[str, Any]) -> StudyReport:
    """Tables, figures and verdict.

    Args:
        data: `protocol` (fields of `RegressionProtocol`) and `curves`, by number of tasks.
    """
    by: Curves = as_numbers(data["curves"])
    steps, repetitions = data["protocol"]["steps"], data["protocol"]["repetitions"]
    rows: list[list[Cell]] = []
    for tasks, models in by.items():
        for model, own in models.items():
            columns = (*(own[kind]["final"] for kind in KINDS), own["throughout"])
            means = [str(mean_over_repetitions(column)) for column in columns]
            overtaken = _overtaken(own, models[OURS], steps)
            rows.append([f"{tasks} tasks, {model}", own["parameters"], *means, overtaken])
    leads = {
        int(tasks): {model: lead(models[model], models[OURS]) for model in BASELINES}
        for tasks, models in by.items()
    }
    points = len(next(iter(by.values()))[OURS]["all"]["mean"])
    title = (
        f"log10 of the training error (mean squared) over the last 1/{points} of {steps:,} steps: mean ± "
        f"standard error of {repetitions} repetitions; throughout: mean over the whole curve of all "
        f"tasks; overtaken: the step by which the mean curve of the {OURS} is where this model ends"
    )
    ahead = [
        [f"{tasks} tasks, {when}", *(str(getattr(by_model[model], when)) for model in BASELINES)]
        for when in ("end", "throughout") for tasks, by_model in leads.items()
    ]  # fmt: skip
    return StudyReport(
        claim=CLAIM,
        verdict=verdict(leads),
        tables=[
            ResultTable(title, ["", "parameters", "all tasks", "affine", "sines", "throughout", "overtaken"], rows),
            ResultTable(
                f"Decades by which the {OURS} is ahead, pair by pair of all tasks' errors", ["", *BASELINES], ahead
            ),
        ],
        figures={"figure3": draw(by, ["all"], steps), "kinds": draw(by, ["affine", "sine"], steps)},
        data=data,
    )


def _overtaken(model: Mapping[str, Any], ours: Mapping[str, Any], steps: int) -> int | None:
    """Step by which our mean curve is where a model ends, or None if it never is."""
    curve = np.array(ours["all"]["mean"])
    below = np.flatnonzero(curve <= model["all"]["mean"][-1])
    return int((below[0] + 1) * steps // len(curve)) if len(below) else None


def verdict(leads: Mapping[int, Mapping[str, Lead]]) -> str:
    """Verdict from the leads over each baseline by number of tasks.

    The claim held if our model is ahead of both baselines at the end and throughout for every number of tasks, and
    its lead at the end is larger for the most tasks than for the fewest. Each statement needs an interval above 0;
    the intervals of all statements hold together at 95 %.
    """
    statements = len(BASELINES) * (2 * len(leads) + 1)
    level = bonferroni(statements)
    texts, held = [], []
    for model in BASELINES:
        own = {tasks: by[model] for tasks, by in leads.items()}
        end = [x.end.above_zero(level) for x in own.values()]
        sooner = [x.throughout.above_zero(level) for x in own.values()]
        few, many = own[min(own)].end, own[max(own)].end
        growth = RepetitionMean(many.mean - few.mean, float(np.hypot(many.error, few.error)), few.count)
        held += [*end, *sooner, growth.above_zero(level)]
        texts.append(
            f"ahead of the {model} with {_numbers(end, own)} tasks at the end and with {_numbers(sooner, own)} "
            f"tasks throughout; that the lead grows by {growth} decades from {min(own)} to {max(own)} tasks is "
            f"{'sure' if growth.above_zero(level) else 'not sure'}"
        )
    word = "held" if all(held) else "held in part" if any(held) else "was not shown"
    return (
        f"{word}, {sum(held)} of {statements} statements. The {OURS} is, for sure (the intervals of all statements "
        f"together 95 %), {'; it is '.join(texts)} (± standard error)."
    )


def _numbers(sure: Sequence[bool], tasks: Iterable[int]) -> str:
    """Numbers of tasks with a sure lead."""
    return ", ".join(str(t) for s, t in zip(sure, tasks, strict=True) if s) or "no number of"


def draw(by: Curves, kinds: Sequence[str], steps: int) -> Figure:
    """Mean curves with standard errors: one column per number of tasks, one row per kind of tasks."""
    figure = Figure(figsize=(4.1 * len(by), 0.6 + 3.3 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(by), sharex=True, sharey="row", squeeze=False)
    for row, kind in zip(panels, kinds, strict=True):
        for axes, (tasks, models) in zip(row, by.items(), strict=True):
            for model, own in models.items():
                mean, error = np.array(own[kind]["mean"]), np.array(own[kind]["error"])
                at = (np.arange(len(mean)) + 1) * steps / len(mean)
                (line,) = axes.plot(at, mean, label=model, linewidth=1.5, color=_COLOURS[model])
                axes.fill_between(at, mean - error, mean + error, color=line.get_color(), alpha=0.25, linewidth=0)
            axes.set_title(f"{tasks} tasks{KINDS[kind]}")
            axes.grid(alpha=0.3)
        row[0].set_ylabel("log10 of the training error")
    for axes in panels[-1]:
        axes.set_xlabel("training steps")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
