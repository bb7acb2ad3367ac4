"""Map of who wins by how much, learning curves, gradients' cosines and separation of the tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from impala_mi.analysis.stats import bonferroni, bootstrap_interval, interquartile_mean, mean_interval
from impala_mi.reproductions.interference.results import (
    BASELINE,
    WITH_POPART,
    Gain,
    Point,
    Run,
    Transfer,
    baseline_of,
    compare,
)
from impala_mi.reproductions.interference.transfer_report import transfer_table
from impala_mi.reproductions.study_report import ResultTable, StudyReport, as_numbers

COLUMNS = 4
"""Panels of a figure side by side."""
BOOTSTRAP_SEEDS = 8
"""Smallest number of seeds whose interquartile mean and bootstrap interval say more than a mean."""
CLAIM = (
    "one head per task gains over a shared head, a sign of interference between tasks; a multiplicative head gains "
    "at least as much, also with a learnt context (section 6.1, where the strength of interference is not varied)."
)


def interference_data(
    runs: Sequence[Run], plan: Sequence[tuple[Point, Sequence[str]]], transfers: Sequence[Transfer] = ()
) -> dict[str, Any]:
    """Data of a report: the points with their arms, and all results."""
    return {
        "plan": [{"point": asdict(point), "arms": list(arms)} for point, arms in plan],
        "runs": [asdict(run) for run in runs],
        "transfers": [asdict(transfer) for transfer in transfers],
    }


def report_from_data(data: Mapping[str, Any]) -> StudyReport:
    """Compare the arms at each point: an arm pays where the interval of its gain is above 0.

    The baseline is the shared head, and for an arm with PopArt the same head without it.

    Args:
        data: as of `interference_data`.
    """
    plan = [(Point(**entry["point"]), entry["arms"]) for entry in data["plan"]]
    runs = [Run(**run | {"point": Point(**run["point"])}) for run in as_numbers(data["runs"])]
    transfers = [Transfer(**own | {"point": Point(**own["point"])}) for own in data["transfers"]]
    finals: dict[Point, dict[str, list[float]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        finals.setdefault(run.point, {}).setdefault(run.arm, []).append(run.final)
    pairs = [(point, arm) for point, own in plan for arm in own if arm != BASELINE]
    level = bonferroni(len(pairs))
    gains = {
        (point, arm): compare(np.array(finals[point][arm]), np.array(finals[point][baseline_of(arm)]), level)
        for point, arm in pairs
    }
    seeds, points = sorted({run.seed for run in runs}), [point for point, _ in plan]
    arms = list(dict.fromkeys(arm for _, own in plan for arm in own))
    compared = [arm for arm in arms if arm != BASELINE]
    sizes = {(run.point.tasks, run.arm): run.head_parameters for run in runs}
    tasks = list(dict.fromkeys(point.tasks for point in points))
    statistic = (
        "interquartile mean [bootstrap interval]" if len(seeds) >= BOOTSTRAP_SEEDS else "mean ± half interval"
    )
    headers = [point.text() for point in points]
    figures = {
        "map": _draw_map(gains, points, compared),
        "curves": _draw_curves(runs, points, arms),
        "cosines": _draw_cosines(runs, points),
    }
    tables = [transfer_table(transfers, runs)] if transfers else []
    if any(run.separation for run in runs):
        figures["separation"] = _draw_separation(runs)
    return StudyReport(
        CLAIM,
        verdict(gains),
        [
            ResultTable(
                f"Final score, {statistic} of 95 % over {len(seeds)} seeds; 0 is random, 100 the best possible",
                ["head", *headers],
                [[arm, *(_summary(finals[point].get(arm)) for point in points)] for arm in arms],
            ),
            ResultTable(
                "Gain over the shared head, or over the same head without PopArt, paired by seed "
                f"(all {len(pairs)} intervals together 95 %), and seeds that gain",
                ["head", *headers],
                [[arm, *(_format(gains.get((point, arm))) for point in points)] for arm in compared],
            ),
            ResultTable(
                "Parameters of the head",
                ["head", *(f"{number} tasks" for number in tasks)],
                [[arm, *(sizes.get((number, arm)) for number in tasks)] for arm in arms],
            ),
            *tables,
        ],
        figures,
        data,
    )


def verdict(gains: Mapping[tuple[Point, str], Gain]) -> str:
    """Arms that are better or worse than their baseline, by point."""
    texts = []
    for point in dict.fromkeys(point for point, _ in gains):
        at_point = {arm: gain for (own, arm), gain in gains.items() if own == point}
        statements = [
            f"{word} than {_name_of(baseline)}: "
            + ", ".join(f"{arm} ({at_point[arm].mean:+.1f})" for arm in chosen)
            for baseline in dict.fromkeys(map(baseline_of, at_point))
            for word, sign in (("better", 1), ("worse", -1))
            if (chosen := [a for a, gain in at_point.items() if (baseline_of(a), gain.sign) == (baseline, sign)])
        ]
        text = "; ".join(statements) or "no difference to a baseline is shown"
        texts.append(f"{point.text()}: {text}")
    return ". ".join(texts) + "."


def _name_of(baseline: str) -> str:
    return "the shared head" if baseline == BASELINE else baseline


def _summary(finals: Sequence[float] | None) -> str | None:
    if finals is None:
        return None
    scores = np.array(finals)
    if len(scores) < BOOTSTRAP_SEEDS:
        mean, half = mean_interval(scores)
        return f"{mean:.1f} ± {half:.1f}"
    low, high = bootstrap_interval([scores], interquartile_mean)
    return f"{interquartile_mean(scores):.1f} [{low:.1f}, {high:.1f}]"


def _format(gain: Gain | None) -> str | None:
    return None if gain is None else f"{gain.mean:+.1f} ± {gain.half:.1f}, {gain.improvement:.0%}"


def _draw_map(gains: Mapping[tuple[Point, str], Gain], points: Sequence[Point], heads: Sequence[str]) -> Figure:
    """Gain of each head (rows) at each point (columns); a dot marks gains that are shown."""
    figure = Figure(figsize=(2.6 + 1.2 * len(points), 1.2 + 0.4 * len(heads)), layout="constrained")
    axes = figure.subplots()
    none = Gain(np.nan, np.nan, np.nan)
    values = np.array([[gains.get((point, head), none).mean for point in points] for head in heads])
    most = max(float(np.nanmax(np.abs(values))), 1.0)
    image = axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for (point, head), gain in gains.items():
        mark = "•" if gain.sign else ""
        place = points.index(point), heads.index(head)
        axes.text(*place, f"{gain.mean:+.0f}{mark}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(points)), [point.text("\n") for point in points], fontsize=8)
    axes.set_yticks(range(len(heads)), heads)
    figure.colorbar(image, label="gain over the baseline")
    return figure


def line_style(arm: str) -> dict[str, Any]:
    """Colour by kind of layer; dashed if the task is inferred or the head widened, dotted with PopArt."""
    kinds = ("shared", "per_task", "concat", "film", "low_rank", "hyper", "mi")
    kind = next(number for number, name in enumerate(kinds) if arm.startswith(name))
    dashed = "_context" in arm or "as large" in arm
    return {"color": f"C{kind}", "linestyle": ":" if arm.endswith(WITH_POPART) else "--" if dashed else "-"}


def _draw_curves(runs: Sequence[Run], points: Sequence[Point], arms: Sequence[str]) -> Figure:
    """Learning curves of the arms, one panel a point."""
    figure, panels = _panels(points)
    for axes, point in zip(panels, points, strict=True):
        for arm in arms:
            own = [run for run in runs if (run.point, run.arm) == (point, arm)]
            if not own:
                continue
            mean, half = mean_interval(np.stack([run.curve for run in own]))
            frames = np.array(own[0].frames) / 1e3
            style = line_style(arm)
            axes.plot(frames, mean, label=arm, **style)
            if len(own) > 1:
                axes.fill_between(frames, mean - half, mean + half, color=style["color"], alpha=0.15, lw=0)
        axes.set(xlabel="env frames (thousands)", ylim=(0, 100))
    panels[0].set(ylabel="score")
    lines = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    return figure


def _draw_cosines(runs: Sequence[Run], points: Sequence[Point]) -> Figure:
    """Cosines of the shared head's gradients between levels (solid) and within a level (dashed)."""
    figure, panels = _panels(points)
    for axes, point in zip(panels, points, strict=True):
        own = [run for run in runs if (run.point, run.arm) == (point, BASELINE)]
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


def _draw_separation(runs: Sequence[Run]) -> Figure:
    """Share of a step's nearest neighbours that are of its task, by agent steps since the episode's start."""
    measured = [run for run in runs if run.separation]
    points = list(dict.fromkeys(run.point for run in measured))
    figure, panels = _panels(points)
    for axes, point in zip(panels, points, strict=True):
        own = [run.separation for run in measured if run.point == point]
        for kind in dict.fromkeys(str(row["kind"]) for row in own[0]):
            rows = [[row for row in separation if row["kind"] == kind] for separation in own]
            mean, half = mean_interval(np.array([[row["purity"] for row in run] for run in rows]))
            axes.errorbar(range(len(mean)), mean, half, label=kind, capsize=3)
        chance = [row["chance"] for row in rows[0]]
        axes.plot(range(len(chance)), chance, color="0.6", linestyle=":", label="chance")
        spans = [(row["first"], row["last"]) for row in rows[0]]
        axes.set_xticks(range(len(spans)), [f"{a}" if a == b else f"{a}-{b}" for a, b in spans])
        axes.set(xlabel="agent step of the episode", ylim=(0, 1.02))
    panels[0].set(ylabel="neighbours of the same task")
    panels[-1].legend(frameon=False, fontsize=8)
    return figure


def _panels(points: Sequence[Point]) -> tuple[Figure, list[Axes]]:
    """Panels, one for each point, `COLUMNS` side by side."""
    columns = min(COLUMNS, len(points))
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(0.8 + 2.6 * columns, 0.8 + 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(points) :]:
        axes.set_axis_off()
    panels = grid.flat[: len(points)].tolist()
    for axes, point in zip(panels, points, strict=True):
        axes.set_title(point.text("\n"), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
