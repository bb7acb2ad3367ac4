"""Comparison of the heads by Welch's intervals, with figure 4(b, c)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from impala_mi.analysis.compare import curve
from impala_mi.analysis.stats import bonferroni, mean_interval, welch_interval
from impala_mi.reproductions.study_report import ResultTable, StudyReport
from impala_mi.runs.history import read

HEADS = ("shared", "per_task", "mi_task", "mi_context")
ALONE = "one agent a level"
"""Name of the agents of one level each."""
CLAIM = (
    "one head per task beats a shared head, a multiplicative head whose context comes from the task beats both, "
    "and one whose context is learnt gains as much without being told the task (figure 4)."
)
CLAUSES: Mapping[str, Sequence[tuple[str, str]]] = {
    "one head per task beats the shared one": [("per_task", "shared")],
    "the multiplicative head of the task beats both": [("mi_task", "shared"), ("mi_task", "per_task")],
    "the one of a learnt context beats the shared one": [("mi_context", "shared")],
}
"""Clauses of the claim as pairs of which the first is better. "Gains as much" is not decided; its difference is
reported, as a few seeds cannot show that two heads are equal."""
PAIRS = [pair for pairs in CLAUSES.values() for pair in pairs] + [("mi_context", "mi_task"), (ALONE, "shared")]
Gain = tuple[float, float, float]
"""A difference of means and the ends of its interval."""


def multitask_data(
    runs: Path, scores: Mapping[str, Sequence[Mapping[str, float]]], seeds: Sequence[int]
) -> dict[str, Any]:
    """Data of a report: the scores [seeds, levels] of each head, and its learning curve if it has records."""
    levels = list(scores[HEADS[0]][0])
    curves = {}
    for name in HEADS:
        own = curve([read(str(runs / f"{name}-{seed}")) for seed in seeds], "score/capped_mean")
        if own is not None:
            ends = {"low": own.low, "high": own.high} if own.low is not None and own.high is not None else {}
            lines = {"frames": own.frames, "mean": own.mean} | ends
            curves[name] = {key: line.tolist() for key, line in lines.items()}
    table = {name: [[row[level] for level in levels] for row in rows] for name, rows in scores.items()}
    return {"levels": levels, "seeds": list(seeds), "scores": table, "curves": curves}


def report_from_data(data: Mapping[str, Any]) -> StudyReport:
    """Compare the heads by their mean capped score over levels.

    Args:
        data: as of `multitask_data`.
    """
    levels, seeds = data["levels"], data["seeds"]
    table = {name: np.array(rows) for name, rows in data["scores"].items()}
    capped = {name: np.minimum(rows, 100.0).mean(1) for name, rows in table.items()}
    gains = gains_between(capped)

    def capped_mean(name: str) -> str:
        mean, half = mean_interval(capped[name])
        return f"{mean:.1f} ± {half:.1f}"

    return StudyReport(
        CLAIM,
        verdict(gains),
        [
            ResultTable(
                f"Capped score over levels, its 95 % interval over {len(seeds)} seeds, and the score of each level",
                ["head", "capped mean", *levels],
                [[name, capped_mean(name), *map(float, rows.mean(0))] for name, rows in table.items()],
            ),
            ResultTable(
                "Differences of capped means (all intervals together of 95 %: Welch's, Bonferroni)",
                ["", "against", "difference"],
                [[*pair, _format_gain(gain)] for pair, gain in gains.items()],
            ),
        ],
        {"multitask": _draw(data["curves"], capped)},
        data,
    )


def gains_between(capped: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Gain]:
    """Gains of all pairs, from the capped means [seeds] of each head; their intervals hold together at 95 %."""
    return {(better, other): _gain(capped[better], capped[other]) for better, other in PAIRS}


def _gain(rows: np.ndarray, base: np.ndarray) -> Gain:
    low, high = welch_interval(rows, base, bonferroni(len(PAIRS)))
    return float(rows.mean() - base.mean()), low, high


def _format_gain(gain: Gain) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gain)


def verdict(gains: Mapping[tuple[str, str], Gain]) -> str:
    """Number of the paper's clauses that held, with every interval above 0, and each clause's numbers."""
    held, texts = 0, []
    for clause, pairs in CLAUSES.items():
        all_above = all(gains[pair][1] > 0 for pair in pairs)
        any_below = any(gains[pair][2] < 0 for pair in pairs)
        numbers = ", ".join(f"{_format_gain(gains[pair])} over {pair[1]}" for pair in pairs)
        word = "held" if all_above else "the contrary" if any_below else "not shown"
        held += all_above
        texts.append(f"{clause}: {word} ({numbers})")
    alone = gains[ALONE, "shared"]
    interference = (
        "there is" if alone[1] > 0 else "there is none, levels help each other" if alone[2] < 0 else "none is shown"
    )
    return (
        f"{held} of {len(texts)} clauses held. " + "; ".join(texts)
        + f". The learnt context against that of the task: {_format_gain(gains['mi_context', 'mi_task'])}. "
        f"Interference: {interference} (agents of one level each, at as many frames of it, over the shared head: "
        f"{_format_gain(alone)})."
    )  # fmt: skip


def _draw(curves: Mapping[str, Mapping[str, Sequence[float]]], capped: Mapping[str, np.ndarray]) -> Figure:
    """Figure 4(b, c): capped score over frames in training, and as evaluated."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    training, evaluated = figure.subplots(1, 2, width_ratios=[2, 1])
    for number, name in enumerate(HEADS):
        if name in curves:
            own = {key: np.array(line, dtype=float) for key, line in curves[name].items()}
            frames = own["frames"] / 1e6
            training.plot(frames, own["mean"], color=f"C{number}", label=name)
            if "low" in own:
                training.fill_between(frames, own["low"], own["high"], color=f"C{number}", alpha=0.15, lw=0)
    training.set(xlabel="env frames (millions)", ylabel="mean capped score, last episodes", ylim=(0, None))
    if training.lines:
        training.legend(frameon=False)
    for number, (name, values) in enumerate(capped.items()):
        evaluated.plot(
            [number] * len(values), values, "o", color="0.6" if name == ALONE else f"C{number}", alpha=0.6
        )
        evaluated.plot([number - 0.25, number + 0.25], [values.mean()] * 2, color="0.2")
    evaluated.set_xticks(
        range(len(capped)), [name.replace(" ", "\n", 1) for name in capped], rotation=40, ha="right"
    )
    evaluated.set(ylabel="mean capped score, evaluated", ylim=(0, None))
    for axes in (training, evaluated):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
