"""Which heads are better, by Welch's intervals."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from impala_mi.analysis.compare import curve, interval
from impala_mi.reproductions.findings import Findings, Table
from impala_mi.runs.history import History, read

HEADS = ("shared", "per_task", "mi_task", "mi_context")
ALONE = "one agent a level"
CLAIM = (
    "one head per task beats a shared head, a multiplicative head whose context comes from the task beats both, "
    "and one whose context is learnt gains as much without being told the task (figure 4)."
)
CLAUSES: Mapping[str, Sequence[tuple[str, str]]] = {
    "one head per task beats the shared one": [("per_task", "shared")],
    "the multiplicative head of the task beats both": [("mi_task", "shared"), ("mi_task", "per_task")],
    "the one of a learnt context beats the shared one": [("mi_context", "shared")],
}
"""What the paper says, as pairs of which the first is better. "Gains as much" is not decided, only its difference
told: so few seeds cannot show that two heads are equal."""
PAIRS = [pair for pairs in CLAUSES.values() for pair in pairs] + [("mi_context", "mi_task"), (ALONE, "shared")]
CONFIDENCE = 1 - 0.05 / len(PAIRS)
"""Of each interval, so that all hold together with 95 % (Bonferroni)."""


def findings(runs: Path, scores: Mapping[str, Sequence[Mapping[str, float]]], seeds: Sequence[int]) -> Findings:
    """Compare the heads by their mean capped score over levels."""
    levels = list(scores[HEADS[0]][0])
    table = {name: np.array([[row[level] for level in levels] for row in rows]) for name, rows in scores.items()}
    capped = {name: np.minimum(rows, 100.0).mean(1) for name, rows in table.items()}
    gains = {pair: _gain(capped[pair[0]], capped[pair[1]]) for pair in PAIRS}

    def capped_mean(name: str) -> str:
        mean, half = interval(capped[name])
        return f"{mean:.1f} ± {half:.1f}"

    return Findings(
        CLAIM,
        verdict(gains),
        [
            Table(
                f"Capped score over levels, its 95 % interval over {len(seeds)} seeds, and the score of each level",
                ["head", "capped mean", *levels],
                [[name, capped_mean(name), *map(float, rows.mean(0))] for name, rows in table.items()],
            ),
            Table(
                "Differences of capped means (all intervals together of 95 %: Welch's, Bonferroni)",
                ["", "against", "difference"],
                [[*pair, _told_gain(gain)] for pair, gain in gains.items()],
            ),
        ],
        {"multitask": _draw(runs, seeds, capped)},
        {"levels": levels, "seeds": list(seeds), "gains": {" against ".join(k): v for k, v in gains.items()}}
        | {"scores": {name: rows.tolist() for name, rows in table.items()}},
    )  # fmt: skip


Gain = tuple[float, float, float]
"""A difference of means and the ends of its interval."""


def _gain(rows: np.ndarray, base: np.ndarray) -> Gain:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # scores may be equal where none scores, or all reach the cap
        found = stats.ttest_ind(rows, base, equal_var=False).confidence_interval(CONFIDENCE)
    return float(rows.mean() - base.mean()), float(found.low), float(found.high)


def _told_gain(gain: Gain) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gain)


def verdict(gains: Mapping[tuple[str, str], Gain]) -> str:
    """How many of the paper's clauses held: those of which every interval is above 0."""
    said = []
    for clause, pairs in CLAUSES.items():
        shown = all(gains[pair][1] > 0 for pair in pairs)
        against = any(gains[pair][2] < 0 for pair in pairs)
        numbers = ", ".join(f"{_told_gain(gains[pair])} over {pair[1]}" for pair in pairs)
        said.append(
            (shown, f"{clause}: {'held' if shown else 'the contrary' if against else 'not shown'} ({numbers})")
        )
    held = sum(shown for shown, _ in said)
    alone = gains[ALONE, "shared"]
    interference = (
        "there is" if alone[1] > 0 else "there is none, levels help each other" if alone[2] < 0 else "none is shown"
    )
    return (
        f"{held} of {len(said)} clauses held. " + "; ".join(text for _, text in said)
        + f". The learnt context against that of the task: {_told_gain(gains['mi_context', 'mi_task'])}. "
        f"Interference: {interference} (agents of one level each, at as many frames of it, over the shared head: "
        f"{_told_gain(alone)})."
    )  # fmt: skip


def _draw(runs: Path, seeds: Sequence[int], capped: dict[str, np.ndarray]) -> Figure:
    """Figure 4(b, c): capped score over frames while training, and as evaluated."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for number, name in enumerate(HEADS):
        histories: list[History] = [read(str(runs / f"{name}-{seed}")) for seed in seeds]
        if (found := curve(histories, "score/capped_mean")) is not None:
            left.plot(found.frames / 1e6, found.mean, color=f"C{number}", label=name)
            if found.low is not None and found.high is not None:
                left.fill_between(found.frames / 1e6, found.low, found.high, color=f"C{number}", alpha=0.15, lw=0)
    left.set(xlabel="env frames (millions)", ylabel="mean capped score, last episodes", ylim=(0, None))
    if left.lines:
        left.legend(frameon=False)
    for number, (name, values) in enumerate(capped.items()):
        right.plot([number] * len(values), values, "o", color="0.6" if name == ALONE else f"C{number}", alpha=0.6)
        right.plot([number - 0.25, number + 0.25], [values.mean()] * 2, color="0.2")
    right.set_xticks(range(len(capped)), [name.replace(" ", "\n", 1) for name in capped], rotation=40, ha="right")
    right.set(ylabel="mean capped score, evaluated", ylim=(0, None))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure
