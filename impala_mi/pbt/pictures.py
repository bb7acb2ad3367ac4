"""Pictures of a population: lineage tree, fitness and schedules, as PNG and as an interactive page."""

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from impala_mi.analysis.pages import plain
from impala_mi.analysis.stats import mean_interval
from impala_mi.pbt.lineage import MemberHistory, ancestry, schedule

matplotlib.use("Agg")
from matplotlib import colormaps, rc_context
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

COLOURS = "viridis"


def best(histories: dict[str, MemberHistory]) -> str:
    """Member with the best last fitness, or the first member if no fitness is known."""
    known = {name: f for name, history in histories.items() if (f := history.last_fitness()) is not None}
    return max(known, key=lambda name: known[name]) if known else next(iter(histories))


def _scale(histories: dict[str, MemberHistory]) -> Normalize:
    values = [f for history in histories.values() for f in history.fitness] or [0.0, 1.0]
    return Normalize(min(values), max(max(values), min(values) + 1e-9))


@rc_context({"text.parse_math": False})  # names may hold dollar signs
def draw(histories: dict[str, MemberHistory], keys: Sequence[str], title: str, file: Path) -> None:
    """Draw the lineage, every member's fitness, and the schedule of each parameter along the best ancestry."""
    winner = best(histories)
    path = ancestry(histories, winner)
    first = next(iter(histories.values())).generations[0].parameters
    numeric = [key for key in keys if not isinstance(first[key], str)]
    height = 1.6 + 0.22 * len(histories)
    figure, all_axes = plt.subplots(
        2 + len(numeric), 1, sharex=True, layout="constrained", figsize=(10, height + 2.2 * (1 + len(numeric))),
        height_ratios=[height, *[2.2] * (1 + len(numeric))],
    )  # fmt: skip
    _draw_tree(all_axes[0], histories, winner)
    all_axes[0].set_title(title, loc="left")
    for history in histories.values():
        style = {"color": "C3", "lw": 1.8, "zorder": 3} if history.member == winner else {"color": "0.7", "lw": 0.9}
        all_axes[1].plot(history.frames, history.fitness, **style)
    all_axes[1].set_ylabel("fitness")
    for axes, key in zip(all_axes[2:], numeric, strict=True):
        for history in histories.values():
            edges = [*(t.env_frames for t in history.generations), history.end]
            values = [float(t.parameters[key]) for t in history.generations]
            axes.stairs(values, edges, baseline=None, color="0.75", lw=0.8)
        for begin, end, parameters in schedule(histories, path):
            axes.plot([begin, end], [float(parameters[key])] * 2, color="C3", lw=2.2)
        axes.set(yscale="log", ylabel=key.removeprefix("learner."))
    all_axes[-1].set_xlabel(f"env frames of a member; red: {winner}, the best at the end, and its ancestry")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _draw_tree(axes: Axes, histories: dict[str, MemberHistory], winner: str) -> None:
    rows, scale = {name: row for row, name in enumerate(histories)}, _scale(histories)
    for history in histories.values():
        row = rows[history.member]
        axes.plot([0, history.end], [row, row], color="0.85", lw=4, solid_capstyle="butt", zorder=1)
        if len(history.frames) > 1:
            points = np.column_stack([history.frames, np.full(len(history.frames), row)])
            segments = list(np.stack([points[:-1], points[1:]], 1))
            lines = LineCollection(segments, cmap=COLOURS, norm=scale, lw=4, capstyle="butt", zorder=2)
            lines.set_array(np.array(history.fitness[1:]))
            axes.add_collection(lines)
        for generation in history.generations:
            if generation.donor is not None:
                axes.annotate(
                    "", (generation.env_frames, row), (generation.donor_frames, rows[generation.donor]),
                    arrowprops={"arrowstyle": "-|>", "lw": 0.9, "color": "0.25"}, zorder=3,
                )  # fmt: skip
            elif generation.number:
                axes.plot(generation.env_frames, row, "|", color="0.25", ms=7, zorder=3)
    for stretch in ancestry(histories, winner):
        axes.plot([stretch.begin, stretch.end], [rows[stretch.member] - 0.3] * 2, color="C3", lw=1.8, zorder=4)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.figure.colorbar(matplotlib.cm.ScalarMappable(scale, COLOURS), ax=axes, label="fitness", pad=0.01)


def page(histories: dict[str, MemberHistory], title: str, file: Path) -> None:
    """Write the tree as a self-contained page; each stretch shows its hyperparameters under the mouse."""
    rows, scale = {name: row for row, name in enumerate(histories)}, _scale(histories)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.65, 0.35])
    for history in histories.values():
        edges = [*(t.env_frames for t in history.generations), history.end]
        fitness = [_fitness_between(history, begin, end) for begin, end in itertools.pairwise(edges)]
        figure.add_trace(
            go.Bar(
                y=[rows[history.member]] * len(fitness), base=edges[:-1], x=np.diff(edges), orientation="h",
                width=0.45,
                hovertext=[_hover_text(history, i, edges, f) for i, f in enumerate(fitness)], hoverinfo="text",
                marker={"color": [_colour(f, scale) for f in fitness], "line": {"width": 0.5, "color": "white"}},
                showlegend=False,
            ), 1, 1,
        )  # fmt: skip
        for generation in history.generations:
            if generation.donor is not None:
                figure.add_annotation(
                    x=generation.env_frames, y=rows[history.member], ax=generation.donor_frames,
                    ay=rows[generation.donor], axref="x", ayref="y", xref="x", yref="y", showarrow=True,
                    arrowhead=2, arrowwidth=1, arrowcolor="dimgrey",
                )  # fmt: skip
        name = plain(history.member)
        line = go.Scatter(x=history.frames, y=history.fitness, mode="lines", name=name, showlegend=False)
        figure.add_trace(line, 2, 1)
    ticks = {"tickvals": list(rows.values()), "ticktext": [plain(member) for member in rows]}
    figure.update_yaxes(autorange="reversed", **ticks, row=1, col=1)
    figure.update_yaxes(title="fitness", row=2, col=1)
    figure.update_xaxes(title="env frames of a member", row=2, col=1)
    figure.update_layout(
        title=plain(title),
        template="plotly_white",
        height=420 + 24 * len(histories),
        hovermode="closest",
        barmode="overlay",
    )
    figure.write_html(file, include_plotlyjs=True, full_html=True)


def _colour(fitness: float | None, scale: Normalize) -> str:
    return "lightgrey" if fitness is None else matplotlib.colors.to_hex(colormaps[COLOURS](scale(fitness)))


def _fitness_between(history: MemberHistory, begin: int, end: int) -> float | None:
    """Last known fitness between two frames."""
    at = bisect.bisect_right(history.frames, end) - 1
    return history.fitness[at] if at >= 0 and history.frames[at] >= begin else None


def _hover_text(history: MemberHistory, index: int, edges: Sequence[int], fitness: float | None) -> str:
    """Hover text of a stretch: member, generation, frames, fitness, hyperparameters."""
    generation = history.generations[index]
    values = [(key.removeprefix("learner."), v) for key, v in generation.parameters.items()]
    return "<br>".join(
        [
            f"<b>{plain(history.member)}</b>, generation {generation.number}",
            f"frames {edges[index]:,} to {edges[index + 1]:,}",
            f"fitness {'-' if fitness is None else f'{fitness:.1f}'}",
            *(f"{plain(name)} {plain(v) if isinstance(v, str) else f'{v:.3g}'}" for name, v in values),
        ]
    )


def over_populations(
    histories: dict[str, MemberHistory], points: int = 100
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Frames [points], and the fitness [points] of each population's best member, NaN if none is known."""
    ends: dict[int, int] = {}
    for history in histories.values():
        ends[history.population] = max(ends.get(history.population, 0), history.end)
    frames = np.linspace(0, min(ends.values(), default=0), points)
    curves: dict[int, list[np.ndarray]] = {}
    for history in histories.values():
        if history.frames:
            line = np.interp(frames, history.frames, history.fitness, left=np.nan, right=np.nan)
            curves.setdefault(history.population, []).append(line)
    return frames, {p: np.fmax.reduce(lines) for p, lines in sorted(curves.items())}


@rc_context({"text.parse_math": False})  # names may hold dollar signs
def draw_populations(histories: dict[str, MemberHistory], ranked: bool, title: str, file: Path) -> None:
    """Draw the best member of each population over time, and their mean with its 95 % interval.

    If fitness is `ranked` within each population, populations cannot be compared and there is no mean.
    """
    frames, curves = over_populations(histories)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for population, curve in curves.items():
        axes.plot(frames, curve, lw=1, alpha=0.6, label=f"population {population}")
    if len(curves) > 1 and not ranked:
        mean, half = mean_interval(np.stack(list(curves.values())))
        axes.plot(frames, mean, color="C3", lw=2, label="mean")
        axes.fill_between(frames, mean - half, mean + half, color="C3", alpha=0.2, lw=0, label="95 % interval")
    quantity = "other members that the best beats, %" if ranked else "fitness of the best member"
    axes.set(xlabel="env frames of a member", ylabel=quantity)
    axes.set_title(title, loc="left")
    if curves:
        axes.legend(frameon=False)
    figure.savefig(file, dpi=130)
    plt.close(figure)
