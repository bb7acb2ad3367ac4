"""A population in pictures: the lineage tree, fitness, schedules; as PNG and as a page to move about in."""

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from impala_mi.analysis.compare import interval
from impala_mi.pbt.lineage import Life, ancestry, schedule

matplotlib.use("Agg")
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

COLOURS = "viridis"


def best(lives: dict[str, Life]) -> str:
    """The member with the best last fitness; the first where none has any."""
    known = {name: fitness for name, life in lives.items() if (fitness := life.last_fitness()) is not None}
    return max(known, key=lambda name: known[name]) if known else next(iter(lives))


def _scale(lives: dict[str, Life]) -> Normalize:
    values = [f for life in lives.values() for f in life.fitness] or [0.0, 1.0]
    return Normalize(min(values), max(max(values), min(values) + 1e-9))


def draw(lives: dict[str, Life], keys: Sequence[str], title: str, file: Path) -> None:
    """The lineage, every member's fitness, and the schedule of each numeric parameter along the best's ancestry."""
    winner = best(lives)
    path = ancestry(lives, winner)
    first = next(iter(lives.values())).turns[0].parameters
    numeric = [key for key in keys if not isinstance(first[key], str)]
    height = 1.6 + 0.22 * len(lives)
    figure, all_axes = plt.subplots(
        2 + len(numeric), 1, sharex=True, layout="constrained", figsize=(10, height + 2.2 * (1 + len(numeric))),
        height_ratios=[height, *[2.2] * (1 + len(numeric))],
    )  # fmt: skip
    _draw_tree(all_axes[0], lives, winner)
    all_axes[0].set_title(title, loc="left")
    for life in lives.values():
        chosen = life.member == winner
        all_axes[1].plot(
            life.frames, life.fitness, color="C3" if chosen else "0.7", lw=1.8 if chosen else 0.9, zorder=2 + chosen
        )
    all_axes[1].set_ylabel("fitness")
    for axes, key in zip(all_axes[2:], numeric, strict=True):
        for life in lives.values():
            edges = [*(t.env_frames for t in life.turns), life.end]
            values = [float(t.parameters[key]) for t in life.turns]
            axes.stairs(values, edges, baseline=None, color="0.75", lw=0.8)
        for begin, end, parameters in schedule(lives, path):
            axes.plot([begin, end], [float(parameters[key])] * 2, color="C3", lw=2.2)
        axes.set(yscale="log", ylabel=key.removeprefix("learner."))
    all_axes[-1].set_xlabel(f"env frames of a member; red: {winner}, the best at the end, and its ancestry")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _draw_tree(axes: Axes, lives: dict[str, Life], winner: str) -> None:
    rows, scale = {name: row for row, name in enumerate(lives)}, _scale(lives)
    for life in lives.values():
        row = rows[life.member]
        axes.plot([0, life.end], [row, row], color="0.85", lw=4, solid_capstyle="butt", zorder=1)
        if len(life.frames) > 1:
            points = np.column_stack([life.frames, np.full(len(life.frames), row)])
            lines = LineCollection(
                list(np.stack([points[:-1], points[1:]], 1)),
                cmap=COLOURS,
                norm=scale,
                lw=4,
                capstyle="butt",
                zorder=2,
            )
            lines.set_array(np.array(life.fitness[1:]))
            axes.add_collection(lines)
        for turn in life.turns:
            if turn.donor is not None:
                axes.annotate(
                    "", (turn.env_frames, row), (turn.donor_frames, rows[turn.donor]),
                    arrowprops={"arrowstyle": "-|>", "lw": 0.9, "color": "0.25"}, zorder=3,
                )  # fmt: skip
            elif turn.generation:
                axes.plot(turn.env_frames, row, "|", color="0.25", ms=7, zorder=3)
    for stretch in ancestry(lives, winner):
        axes.plot([stretch.begin, stretch.end], [rows[stretch.member] - 0.3] * 2, color="C3", lw=1.8, zorder=4)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.figure.colorbar(matplotlib.cm.ScalarMappable(scale, COLOURS), ax=axes, label="fitness", pad=0.01)


def page(lives: dict[str, Life], title: str, file: Path) -> None:
    """The same tree with what each stretch had under the mouse; one file, nothing is fetched from elsewhere."""
    rows, scale = {name: row for row, name in enumerate(lives)}, _scale(lives)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.65, 0.35])
    for life in lives.values():
        edges = [*(t.env_frames for t in life.turns), life.end]
        fitness = [_fitness_between(life, begin, end) for begin, end in itertools.pairwise(edges)]
        figure.add_trace(
            go.Bar(
                y=[rows[life.member]] * len(fitness), base=edges[:-1], x=np.diff(edges), orientation="h",
                width=0.45,
                hovertext=[_about(life, i, edges, f) for i, f in enumerate(fitness)], hoverinfo="text",
                marker={"color": [_colour(f, scale) for f in fitness], "line": {"width": 0.5, "color": "white"}},
                showlegend=False,
            ), 1, 1,
        )  # fmt: skip
        for turn in life.turns:
            if turn.donor is not None:
                figure.add_annotation(
                    x=turn.env_frames, y=rows[life.member], ax=turn.donor_frames, ay=rows[turn.donor], axref="x",
                    ayref="y", xref="x", yref="y", showarrow=True, arrowhead=2, arrowwidth=1, arrowcolor="dimgrey",
                )  # fmt: skip
        line = go.Scatter(x=life.frames, y=life.fitness, mode="lines", name=life.member, showlegend=False)
        figure.add_trace(line, 2, 1)
    ticks = {"tickvals": list(rows.values()), "ticktext": list(rows)}
    figure.update_yaxes(autorange="reversed", **ticks, row=1, col=1)
    figure.update_yaxes(title="fitness", row=2, col=1)
    figure.update_xaxes(title="env frames of a member", row=2, col=1)
    figure.update_layout(
        title=title, template="plotly_white", height=420 + 24 * len(lives), hovermode="closest", barmode="overlay"
    )
    figure.write_html(file, include_plotlyjs=True, full_html=True)


def _colour(fitness: float | None, scale: Normalize) -> str:
    return "lightgrey" if fitness is None else matplotlib.colors.to_hex(colormaps[COLOURS](scale(fitness)))


def _fitness_between(life: Life, begin: int, end: int) -> float | None:
    """The last there."""
    at = bisect.bisect_right(life.frames, end) - 1
    return life.fitness[at] if at >= 0 and life.frames[at] >= begin else None


def _about(life: Life, index: int, edges: Sequence[int], fitness: float | None) -> str:
    """What is shown of a stretch."""
    turn = life.turns[index]
    values = [(key.removeprefix("learner."), v) for key, v in turn.parameters.items()]
    return "<br>".join(
        [
            f"<b>{life.member}</b>, generation {turn.generation}",
            f"frames {edges[index]:,} to {edges[index + 1]:,}",
            f"fitness {'-' if fitness is None else f'{fitness:.1f}'}",
            *(f"{name} {v if isinstance(v, str) else f'{v:.3g}'}" for name, v in values),
        ]
    )


def over_populations(lives: dict[str, Life], points: int = 100) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """[points] frames, and of each population the fitness of its best member there; NaN where none is known."""
    ends: dict[int, int] = {}
    for life in lives.values():
        ends[life.population] = max(ends.get(life.population, 0), life.end)
    frames = np.linspace(0, min(ends.values(), default=0), points)
    found: dict[int, list[np.ndarray]] = {}
    for life in lives.values():
        if life.frames:
            line = np.interp(frames, life.frames, life.fitness, left=np.nan, right=np.nan)
            found.setdefault(life.population, []).append(line)
    return frames, {p: np.fmax.reduce(lines) for p, lines in sorted(found.items())}


def draw_populations(lives: dict[str, Life], ranked: bool, title: str, file: Path) -> None:
    """The best member of each population over time, and their mean with its 95 % interval.

    Where fitness is `ranked` within each population, populations cannot be compared and there is no mean.
    """
    frames, curves = over_populations(lives)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for population, curve in curves.items():
        axes.plot(frames, curve, lw=1, alpha=0.6, label=f"population {population}")
    if len(curves) > 1 and not ranked:
        mean, half = interval(np.stack(list(curves.values())))
        axes.plot(frames, mean, color="C3", lw=2, label="mean")
        axes.fill_between(frames, mean - half, mean + half, color="C3", alpha=0.2, lw=0, label="95 % interval")
    what = "others that the best member beats, %" if ranked else "fitness of the best member"
    axes.set(xlabel="env frames of a member", ylabel=what)
    axes.set_title(title, loc="left")
    if curves:
        axes.legend(frameon=False)
    figure.savefig(file, dpi=130)
    plt.close(figure)
