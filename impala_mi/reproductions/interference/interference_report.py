"""Map of who wins by how much, learning curves and gradients' cosines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from impala_mi.analysis.stats import (
    bonferroni,
    bootstrap_interval,
    interquartile_mean,
    mean_interval,
    welch_interval,
)
from impala_mi.reproductions.study_report import ResultTable, StudyReport

BASELINE = "shared"
FINAL_WINDOWS = 4
"""Windows at the end of a run whose mean is its final score."""
CLAIM = (
    "tasks interfere in a shared output layer; weights that are generated from the task, or from a context that is "
    "learnt, remove the interference (section 6.1, which has no such experiment)."
)
Point = tuple[int, float]
"""Number of tasks and contradiction."""


@dataclass(frozen=True)
class Run:
    """Result of one run."""

    head: str
    tasks: int
    contradiction: float
    seed: int
    frames: Sequence[int]
    """Env frames at the end of each window."""
    scores: Sequence[Sequence[float]]
    """Normalised score of each level in each window."""
    cosines: Sequence[Mapping[str, Sequence[float]]]
    """Gradients' cosines in each window, if measured: within a level and between levels, by part of the agent."""

    @property
    def curve(self) -> np.ndarray:
        """Mean score over levels in each window."""
        return np.asarray(self.scores).mean(1)

    @property
    def final(self) -> float:
        """Mean score over levels at the end."""
        return float(self.curve[-FINAL_WINDOWS:].mean())


@dataclass(frozen=True)
class Gain:
    """Final score of a head minus that of the shared head, over seeds."""

    mean: float
    interval: tuple[float, float]
    """Welch's interval; all intervals of the study hold together at 95 % (Bonferroni)."""
    improvement: float
    """Probability that a run of the head beats a run of the shared head (ties count half)."""

    @property
    def sign(self) -> int:
        """1 if the head is better, -1 if it is worse, 0 if the interval holds 0."""
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


def interference_report(runs: Sequence[Run], protocol: Mapping[str, Any]) -> StudyReport:
    """Compare every head with the shared head at each point. The criterion was fixed before the runs: a head pays
    where the corrected interval of its gain is above 0.
    """
    finals: dict[Point, dict[str, np.ndarray]] = {}
    for run in runs:
        point = finals.setdefault((run.tasks, run.contradiction), {})
        point[run.head] = np.append(point.get(run.head, []), run.final)
    others = [head for head in protocol["heads"] if head != BASELINE]
    level = bonferroni(len(finals) * len(others))
    gains = {
        (point, head): compare(scores[head], scores[BASELINE], level)
        for point, scores in finals.items()
        for head in others
    }
    seeds = sorted({run.seed for run in runs})
    return StudyReport(
        CLAIM,
        verdict(gains),
        [
            ResultTable(
                f"Final score: interquartile mean over {len(seeds)} seeds [95 % bootstrap interval]",
                ["tasks", "contradiction", *protocol["heads"]],
                [[*p, *(_summary(scores[head]) for head in protocol["heads"])] for p, scores in finals.items()],
            ),
            ResultTable(
                "Gain over the shared head [all intervals together 95 %], probability of improvement",
                ["tasks", "contradiction", *others],
                [[*point, *(_format(gains[point, head]) for head in others)] for point in finals],
            ),
        ],
        {"map": _draw_map(gains, list(finals), others), "curves": _draw_curves(runs, list(finals), protocol),
         "cosines": _draw_cosines(runs, list(finals))},
        {"seeds": seeds, "final": [[*p, {h: s.tolist() for h, s in row.items()}] for p, row in finals.items()]},
    )  # fmt: skip


def compare(scores: np.ndarray, baseline: np.ndarray, level: float) -> Gain:
    """Gain of scores [S] over a baseline's [S], with Welch's interval of that confidence level."""
    wins = (scores[:, None] > baseline) + 0.5 * (scores[:, None] == baseline)
    return Gain(float(scores.mean() - baseline.mean()), welch_interval(scores, baseline, level), float(wins.mean()))


def verdict(gains: Mapping[tuple[Point, str], Gain]) -> str:
    """Heads that are better or worse than the shared head, by point."""
    texts = []
    for point in dict.fromkeys(point for point, _ in gains):
        here = {head: gain for (at, head), gain in gains.items() if at == point}
        words = [
            f"{word} are " + ", ".join(f"{head} ({here[head].mean:+.1f})" for head in chosen)
            for word, sign in (("better", 1), ("worse", -1))
            if (chosen := [head for head in here if here[head].sign == sign])
        ]
        tasks, contradiction = point
        at = f"{tasks} tasks, {contradiction:.0%} contradiction"
        texts.append(f"{at}: {'; '.join(words) or 'no difference to the shared head is shown'}")
    return ". ".join(texts) + "."


def _summary(scores: np.ndarray) -> str:
    low, high = bootstrap_interval([scores], interquartile_mean) if len(scores) > 1 else (np.nan, np.nan)
    return f"{interquartile_mean(scores):.1f} [{low:.1f}, {high:.1f}]"


def _format(gain: Gain) -> str:
    return f"{gain.mean:+.1f} [{gain.interval[0]:+.1f}, {gain.interval[1]:+.1f}], {gain.improvement:.2f}"


def _draw_map(gains: Mapping[tuple[Point, str], Gain], points: Sequence[Point], heads: Sequence[str]) -> Figure:
    """Gain of each head (rows) at each point (columns); a dot marks gains that are shown."""
    figure = Figure(figsize=(1.6 + 0.9 * len(points), 1.2 + 0.5 * len(heads)), layout="constrained")
    axes = figure.subplots()
    values = np.array([[gains[point, head].mean for point in points] for head in heads])
    most = max(float(np.abs(values).max()), 1.0)
    image = axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for row, head in enumerate(heads):
        for column, point in enumerate(points):
            mark = "•" if gains[point, head].sign else ""
            axes.text(column, row, f"{values[row, column]:+.0f}{mark}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(points)), [f"{tasks} tasks\n{contradiction:.0%}" for tasks, contradiction in points])
    axes.set_yticks(range(len(heads)), heads)
    figure.colorbar(image, label="gain over shared")
    return figure


def _draw_curves(runs: Sequence[Run], points: Sequence[Point], protocol: Mapping[str, Any]) -> Figure:
    """Learning curves of the heads, one panel a point."""
    figure, panels = _panels(points)
    for axes, point in zip(panels, points, strict=True):
        for number, head in enumerate(protocol["heads"]):
            own = [run for run in runs if (run.tasks, run.contradiction, run.head) == (*point, head)]
            mean, half = mean_interval(np.stack([run.curve for run in own]))
            frames = np.array(own[0].frames) / 1e3
            axes.plot(frames, mean, color=f"C{number}", label=head)
            if len(own) > 1:
                axes.fill_between(frames, mean - half, mean + half, color=f"C{number}", alpha=0.15, lw=0)
        axes.set(xlabel="env frames (thousands)", ylim=(0, 100))
    panels[0].set(ylabel="score")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _draw_cosines(runs: Sequence[Run], points: Sequence[Point]) -> Figure:
    """Cosines of the shared head's gradients between levels (solid) and within a level (dashed)."""
    figure, panels = _panels(points)
    for axes, point in zip(panels, points, strict=True):
        own = [run for run in runs if (run.tasks, run.contradiction, run.head) == (*point, BASELINE)]
        frames = np.array(own[0].frames) / 1e3
        for number, part in enumerate(own[0].cosines[0]):
            values = np.array([[window[part] for window in run.cosines] for run in own]).mean(0)
            axes.plot(frames, values[:, 0], "--", color=f"C{number}", alpha=0.6)
            axes.plot(frames, values[:, 1], color=f"C{number}", label=part)
        axes.axhline(0, color="0.7", lw=0.8)
        axes.set(xlabel="env frames (thousands)")
    panels[0].set(ylabel="cosine of gradients, shared head")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _panels(points: Sequence[Point]) -> tuple[Figure, list[Axes]]:
    """Panels side by side, one for each point."""
    figure = Figure(figsize=(0.6 + 2.6 * len(points), 3.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(points), sharey=True)).tolist()
    for axes, (tasks, contradiction) in zip(panels, points, strict=True):
        axes.set_title(f"{tasks} tasks, {contradiction:.0%} contradiction", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
