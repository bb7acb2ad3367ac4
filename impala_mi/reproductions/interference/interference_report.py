"""Map of who wins by how much, learning curves and gradients' cosines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from impala_mi.analysis.stats import bonferroni, bootstrap_interval, interquartile_mean, mean_interval
from impala_mi.reproductions.study_report import ResultTable, StudyReport

BASELINE = "shared"
"""Arm with which all others are compared."""
FINAL_WINDOWS = 4
"""Windows at the end of a run whose mean is its final score."""
BOOTSTRAP_SEEDS = 8
"""Smallest number of seeds whose interquartile mean and bootstrap interval say more than a mean."""
CLAIM = (
    "one head per task gains over a shared head, a sign of interference between tasks; a multiplicative head gains "
    "at least as much, also with a learnt context (section 6.1, where the strength of interference is not varied)."
)
Point = tuple[int, float]
"""Number of tasks and contradiction."""


@dataclass(frozen=True)
class Run:
    """Result of one run."""

    arm: str
    tasks: int
    contradiction: float
    seed: int
    frames: Sequence[int]
    """Env frames at the end of each window."""
    scores: Sequence[Sequence[float]]
    """Normalised score of each level in each window."""
    cosines: Sequence[Mapping[str, Sequence[float]]]
    """Gradients' cosines in each window, if measured: within a level and between levels, by part of the agent."""
    head_parameters: int

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
    """Final score of an arm minus that of the baseline with the same seed, which plays the same rules."""

    mean: float
    half: float
    """Half of Student's interval of the mean over seeds; all of a study hold together at 95 % (Bonferroni)."""
    improvement: float
    """Share of seeds in which the arm is better than the baseline (ties count half)."""

    @property
    def sign(self) -> int:
        """1 if the arm is better, -1 if it is worse, 0 if the interval holds 0."""
        return int(self.mean > self.half) - int(self.mean < -self.half)


def interference_report(runs: Sequence[Run], arms: Sequence[str]) -> StudyReport:
    """Compare every arm with the baseline at each point: an arm pays where the interval of its gain is above 0."""
    finals: dict[Point, dict[str, list[float]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        finals.setdefault((run.tasks, run.contradiction), {}).setdefault(run.arm, []).append(run.final)
    compared = [arm for arm in arms if arm != BASELINE]
    level = bonferroni(len(finals) * len(compared))
    gains = {
        (point, arm): compare(np.array(scores[arm]), np.array(scores[BASELINE]), level)
        for point, scores in finals.items()
        for arm in compared
    }
    seeds, points = sorted({run.seed for run in runs}), list(finals)
    sizes = {(run.tasks, run.arm): run.head_parameters for run in runs}
    statistic = (
        "interquartile mean [bootstrap interval]" if len(seeds) >= BOOTSTRAP_SEEDS else "mean ± half interval"
    )
    headers = [f"{tasks} tasks, {contradiction:.0%}" for tasks, contradiction in points]
    return StudyReport(
        CLAIM,
        verdict(gains),
        [
            ResultTable(
                f"Final score, {statistic} of 95 % over {len(seeds)} seeds; 0 is random, 100 the best possible",
                ["head", *headers],
                [[arm, *(_summary(np.array(finals[point][arm])) for point in points)] for arm in arms],
            ),
            ResultTable(
                "Gain over the shared head, paired by seed (all intervals together 95 %), and seeds that gain",
                ["head", *headers],
                [[arm, *(_format(gains[point, arm]) for point in points)] for arm in compared],
            ),
            ResultTable(
                "Parameters of the head",
                ["head", *(f"{tasks} tasks" for tasks in dict(points))],
                [[arm, *(sizes[tasks, arm] for tasks in dict(points))] for arm in arms],
            ),
        ],
        {
            "map": _draw_map(gains, points, compared),
            "curves": _draw_curves(runs, points, arms),
            "cosines": _draw_cosines(runs, points),
        },
        {"seeds": seeds, "runs": [asdict(run) | {"curve": run.curve.tolist(), "final": run.final} for run in runs]},
    )


def compare(scores: np.ndarray, baseline: np.ndarray, level: float) -> Gain:
    """Gain of scores [S] over a baseline's [S], of the same seeds, with an interval of that confidence level."""
    difference = scores - baseline
    mean, half = mean_interval(difference, level)
    improvement = (difference > 0).mean() + 0.5 * (difference == 0).mean()
    return Gain(float(mean), float(half), float(improvement))


def verdict(gains: Mapping[tuple[Point, str], Gain]) -> str:
    """Arms that are better or worse than the shared head, by point."""
    texts = []
    for tasks, contradiction in dict.fromkeys(point for point, _ in gains):
        at_point = {arm: gain for (point, arm), gain in gains.items() if point == (tasks, contradiction)}
        statements = [
            f"{word} than the shared head: " + ", ".join(f"{arm} ({at_point[arm].mean:+.1f})" for arm in chosen)
            for word, sign in (("better", 1), ("worse", -1))
            if (chosen := [arm for arm, gain in at_point.items() if gain.sign == sign])
        ]
        text = "; ".join(statements) or "no difference to the shared head is shown"
        texts.append(f"{tasks} tasks, {contradiction:.0%} contradiction: {text}")
    return ". ".join(texts) + "."


def _summary(scores: np.ndarray) -> str:
    if len(scores) < BOOTSTRAP_SEEDS:
        mean, half = mean_interval(scores)
        return f"{mean:.1f} ± {half:.1f}"
    low, high = bootstrap_interval([scores], interquartile_mean)
    return f"{interquartile_mean(scores):.1f} [{low:.1f}, {high:.1f}]"


def _format(gain: Gain) -> str:
    return f"{gain.mean:+.1f} ± {gain.half:.1f}, {gain.improvement:.0%}"


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


def _draw_curves(runs: Sequence[Run], points: Sequence[Point], arms: Sequence[str]) -> Figure:
    """Learning curves of the arms, one panel a point."""
    figure, panels = _panels(points)
    for axes, point in zip(panels, points, strict=True):
        for number, arm in enumerate(arms):
            own = [run for run in runs if (run.tasks, run.contradiction, run.arm) == (*point, arm)]
            mean, half = mean_interval(np.stack([run.curve for run in own]))
            frames = np.array(own[0].frames) / 1e3
            axes.plot(frames, mean, color=f"C{number % 10}", label=arm)
            if len(own) > 1:
                axes.fill_between(frames, mean - half, mean + half, color=f"C{number % 10}", alpha=0.15, lw=0)
        axes.set(xlabel="env frames (thousands)", ylim=(0, 100))
    panels[0].set(ylabel="score")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _draw_cosines(runs: Sequence[Run], points: Sequence[Point]) -> Figure:
    """Cosines of the shared head's gradients between levels (solid) and within a level (dashed)."""
    figure, panels = _panels(points)
    for axes, point in zip(panels, points, strict=True):
        own = [run for run in runs if (run.tasks, run.contradiction, run.arm) == (*point, BASELINE)]
        frames = np.array(own[0].frames) / 1e3
        for number, part in enumerate(own[0].cosines[0]):
            values = np.array([[window[part] for window in run.cosines] for run in own]).mean(0)
            axes.plot(frames, values[:, 0], "--", color=f"C{number % 10}", alpha=0.6)
            axes.plot(frames, values[:, 1], color=f"C{number % 10}", label=part)
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
