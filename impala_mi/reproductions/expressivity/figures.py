"""Figure 2."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from impala_mi.reproductions.expressivity.needs import ERROR, Curves, Point, median

COLOURS = {"MLP": "tab:blue", "MI": "tab:green", "low rank": "tab:orange", "diagonal": "tab:purple"}


def draw(found: Curves, functions: Sequence[str], models: Sequence[str], titles: dict[str, str]) -> Figure:
    """Parameters over width, a panel a function; dotted: pruned; shaded: the range over repetitions."""
    columns = min(3, len(functions))
    rows = -(-len(functions) // columns)
    figure = Figure(figsize=(4.1 * columns, 0.7 + 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(functions) :]:
        axes.set_axis_off()
    for axes, function in zip(panels.flat, functions, strict=False):
        for model in models:
            _line(axes, found[model, function], model)
        axes.set_yscale("log")
        axes.set_title(titles[function])
        axes.set_xlabel("width d of x and of z")
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel(f"parameters for an error of {ERROR}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    shown = [p for function in functions for model in models for p in found[model, function]]
    beyond = any(math.isinf(p.needs) for p in shown)
    wrong = any(math.isfinite(p.needs) and not p.holds_pruned for p in shown)
    for marker, label, there in (
        ("^", "more than the largest that was tried", beyond), ("x", "not within the error once pruned", wrong)
    ):  # fmt: skip
        if there:
            handles.append(Line2D([], [], color="grey", marker=marker, markerfacecolor="none", linestyle=""))
            labels.append(label)
    handles.append(Patch(color="grey", alpha=0.3))
    labels.append("range over repetitions")
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _line(axes: Axes, some: Sequence[Point], model: str) -> None:
    """One model: what it needs with the range over repetitions, pruned, and where nothing did."""
    colour = COLOURS[model]
    there = [p for p in some if math.isfinite(p.needs)]
    widths = [p.width for p in there]
    axes.plot(widths, [p.needs for p in there], "o-", color=colour, markersize=4, label=model)
    low = [min(n for n in p.parameters if n is not None) for p in there]
    high = [max(p.tried if n is None else n for n in p.parameters) for p in there]
    axes.fill_between(widths, low, high, color=colour, alpha=0.15, linewidth=0)
    left = [median(p.left) for p in there]  # on top of the lines, which they may run along
    axes.plot(widths, left, ":", color=colour, linewidth=2.2, zorder=3, label=f"{model}, pruned")
    wrong = [p for p in there if not p.holds_pruned]
    axes.plot([p.width for p in wrong], [median(p.left) for p in wrong], "x", color=colour)
    beyond = [p for p in some if not math.isfinite(p.needs)]
    axes.plot([p.width for p in beyond], [p.tried for p in beyond], "^", color=colour, markerfacecolor="none")
