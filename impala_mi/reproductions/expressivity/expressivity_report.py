"""Statements of section 3 and figure 2 checked against the results, with tables and figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from impala_mi.analysis.stats import bonferroni, t_factor
from impala_mi.reproductions.expressivity.min_params import ERROR, Curves, MinParams, curves, median
from impala_mi.reproductions.expressivity.shallow_networks import FUNCTIONS, MODELS, TITLES, outputs
from impala_mi.reproductions.study_report import Cell, ResultTable, StudyReport

FROM_WIDTH = 3
"""Smallest width to which the statements apply; below it z / 2 alone is within the error of gating."""
PRODUCTS = 3
"""Functions whose growth is judged: gating, the dot product and gating with d outputs."""
_COLOURS = {"MLP": "tab:blue", "MI": "tab:green", "low rank": "tab:orange", "diagonal": "tab:purple"}


@dataclass(frozen=True)
class PaperCheck:
    """A statement of the paper about figure 2, and whether it holds."""

    text: str
    held: bool
    numbers: str

    def __str__(self) -> str:
        return f"{self.text} ({self.numbers})"


def report_from_data(data: Mapping[str, Any]) -> StudyReport:
    """Tables, figures and verdict.

    Args:
        data: `protocol` (fields of `ExpressivityProtocol`) and `points`, rows of `MinParams`.
    """
    by = curves([MinParams.from_row(row) for row in data["points"]])
    scalar, vector = check_statements(by, ""), check_statements(by, ", d outputs")
    rows: list[list[Cell]] = [[c.text, "yes" if c.held else "no", c.numbers] for c in scalar + vector]
    functions = list(FUNCTIONS)
    title = f"Statements of the paper, at widths from {FROM_WIDTH} on"
    return StudyReport(
        claim="MLPs need exponentially many parameters for gating and dot products, multiplicative networks "
        "quadratically many; summation is easier for MLPs; multiplicative networks for summation and dot products "
        "can be pruned, MLPs cannot.",
        verdict=verdict(scalar, vector),
        tables=[
            ResultTable(title, ["statement", "held", "numbers"], rows), *(_table(by, f) for f in FUNCTIONS)
        ],
        figures={
            "figure2": draw(by, functions[:3], ["MLP", "MI"]),
            "outputs": draw(by, functions[3:], ["MLP", "MI"]),
            "relatives": draw(by, functions, list(MODELS)),
        },
        data=data,
    )  # fmt: skip


def check_statements(by: Curves, suffix: str) -> list[PaperCheck]:
    """Check the statements of section 3 and of figure 2's caption from width `FROM_WIDTH` on.

    Args:
        by: results by model and function.
        suffix: end of the functions' names, "" for those with one output.
    """
    summation, dot = f"summation{suffix}", f"dot product{suffix}"
    products = [f for f in (f"gating{suffix}", dot) if ("MI", f) in by]
    checks = [_fewer(by, summation, "MLP", "MI")]
    for function in products:
        checks += [_fewer(by, function, "MI", "MLP"), _one_unit(by, function), _exponential(by, function)]
    checks += [_prunable(by, function) for function in (summation, dot) if ("MI", function) in by]
    return [*checks, *(_not_prunable(by, function) for function in (summation, *products))]


def verdict(scalar: Sequence[PaperCheck], vector: Sequence[PaperCheck]) -> str:
    """Number of statements that held; those that did not are named with numbers."""
    return f"of functions with one output {_count_held(scalar)}. With d outputs {_count_held(vector)}."


def _count_held(checks: Sequence[PaperCheck]) -> str:
    failed = [str(c) for c in checks if not c.held]
    text = f" (not: {'; '.join(failed)})" if failed else ""
    return f"{len(checks) - len(failed)} of {len(checks)} statements held{text}"


def growth(points: Sequence[MinParams], level: float) -> tuple[float, float, float] | None:
    """Fit log(parameters) = a + b log(d) + c d at widths of at least `FROM_WIDTH` where a network met the error.

    A power of d has c = 0, an exponential c > 0.

    Returns:
        The exponent b of the power alone (c = 0), and c with half of its interval (Student's t) of that confidence
        level; None for fewer than four widths.
    """
    learnt = [p for p in _wide(points) if p.found]
    if len(learnt) < 4:
        return None
    d = np.array([p.width for p in learnt], dtype=float)
    y = np.log([p.median for p in learnt])
    design = np.stack([np.ones_like(d), np.log(d), d], 1)
    fitted = np.linalg.lstsq(design, y)[0]
    variance = float(((y - design @ fitted) ** 2).sum()) / (len(d) - 3)
    error = math.sqrt(variance * np.linalg.inv(design.T @ design)[2, 2])
    half = float(t_factor(len(d) - 2, level)) * error  # the factor of len(d) - 3 degrees of freedom
    return float(np.polyfit(np.log(d), y, 1)[0]), float(fitted[2]), half


def _wide(points: Sequence[MinParams]) -> list[MinParams]:
    return [p for p in points if p.width >= FROM_WIDTH]


def _fewer(by: Curves, function: str, smaller: str, larger: str) -> PaperCheck:
    """Check that every repetition of one model needs fewer parameters than every one of the other, at every width.

    If the models were alike, this would happen at one width once in 20 times for three repetitions each.
    """
    pairs = list(zip(_wide(by[smaller, function]), _wide(by[larger, function]), strict=True))
    held = [
        max(math.inf if n is None else n for n in a.parameters)
        < min(b.tried if n is None else n for n in b.parameters)
        for a, b in pairs
    ]
    a, b = (f"{p.median:,.0f}" if p.found else f"more than {p.tried:,}" for p in pairs[-1])
    numbers = f"in all repetitions at {sum(held)} of {len(held)} widths; at {pairs[-1][0].width} {a} against {b}"
    return PaperCheck(f"{function}: {smaller} needs fewer parameters than {larger}", all(held), numbers)


def _one_unit(by: Curves, function: str) -> PaperCheck:
    """Check that one multiplicative unit suffices; the number of parameters is then arithmetic."""
    points = _wide(by["MI", function])
    sizes = [size for p in points for size in p.size]
    held = all(size == 1 for size in sizes)
    known = [size for size in sizes if size is not None]
    if held:
        numbers = f"d^2 + 2d + 3 parameters by arithmetic, {points[-1].median:,.0f} at {points[-1].width}"
    elif known:
        numbers = f"{min(known)} to {max(known)} units at widths {points[0].width} to {points[-1].width}"
    else:
        numbers = "no network was found"
    return PaperCheck(f"{function}: one multiplicative unit suffices", held, numbers)


def _exponential(by: Curves, function: str) -> PaperCheck:
    """Check that the MLP's growth is faster than a power of d; the intervals of all functions hold together."""
    points = by["MLP", function]
    fit = growth(points, bonferroni(PRODUCTS))
    text = f"{function}: the MLP grows faster than a power of d"
    beyond = [str(p.width) for p in _wide(points) if not p.found]
    note = f"; more than was tried at {', '.join(beyond)}" if beyond else ""
    if fit is None:
        return PaperCheck(text, False, f"found at fewer than four widths{note}")
    exponent, faster, half = fit
    numbers = (
        f"as a power {exponent:.2f}; beside a power the logarithm gains {faster:+.3f} ± {half:.3f} per unit of d"
    )
    return PaperCheck(text, faster > half, f"{numbers}{note}")


def _pruning(by: Curves, model: str, function: str) -> tuple[list[float], str, bool]:
    """Share of parameters that pruning keeps at each width, the same in words, and whether the error allows it."""
    learnt = [p for p in _wide(by[model, function]) if p.found]
    shares = [median(p.unpruned) / p.median for p in learnt]
    if not learnt:
        return [], "no network was found", False
    within = sum(p.holds_pruned for p in learnt)
    text = f"{min(shares):.0%} to {max(shares):.0%} left, within the error at {within} of {len(learnt)} widths"
    return shares, text, within == len(learnt)


def _prunable(by: Curves, function: str) -> PaperCheck:
    shares, text, within = _pruning(by, "MI", function)
    held = bool(shares) and max(shares) <= 0.5 and within
    return PaperCheck(f"{function}: pruning leaves at most half of MI", held, text)


def _not_prunable(by: Curves, function: str) -> PaperCheck:
    shares, text, _ = _pruning(by, "MLP", function)
    held = bool(shares) and min(shares) >= 0.9
    return PaperCheck(f"{function}: pruning leaves at least 0.9 of the MLP", held, text)


def _table(by: Curves, function: str) -> ResultTable:
    """Table of medians over repetitions, with one row per width."""
    vector = outputs(function, 2) > 1
    rows: list[list[Cell]] = []
    for points in zip(*(by[model, function] for model in MODELS), strict=True):
        row: list[Cell] = [points[0].width]
        for p in points:
            pruned = _count(median(p.unpruned), None) + ("" if p.holds_pruned else " (x)")
            row += [_count(p.median, p.tried), pruned]
        row += [_count(median(p.parameters_mean), p.tried) for p in points if vector and p.model in ("MLP", "MI")]
        rows.append(row)
    header = ["d", *(f"{model}{suffix}" for model in MODELS for suffix in ("", ", pruned"))]
    title = f"{TITLES[function]}: parameters for an error of {ERROR}; (x): not within it once pruned"
    if vector:
        header += ["MLP, mean", "MI, mean"]
        title += "; mean: where the error is the mean over outputs"
    return ResultTable(title, header, rows)


def _count(value: float, tried: int | None) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else f"> {tried:,}" if tried else "-"


def draw(by: Curves, functions: Sequence[str], models: Sequence[str]) -> Figure:
    """Parameters over width, one panel per function; dotted: pruned; shaded: the range over repetitions."""
    columns = min(3, len(functions))
    rows = -(-len(functions) // columns)
    figure = Figure(figsize=(4.1 * columns, 0.7 + 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(functions) :]:
        axes.set_axis_off()
    for axes, function in zip(panels.flat, functions, strict=False):
        for model in models:
            _line(axes, by[model, function], model)
        axes.set_yscale("log")
        axes.set_title(TITLES[function])
        axes.set_xlabel("width d of x and of z")
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel(f"parameters for an error of {ERROR}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    points = [p for function in functions for model in models for p in by[model, function]]
    for marker, label, used in (
        ("^", "more than the largest that was tried", any(not p.found for p in points)),
        ("x", "not within the error once pruned", any(p.found and not p.holds_pruned for p in points)),
    ):
        if used:
            handles.append(Line2D([], [], color="grey", marker=marker, markerfacecolor="none", linestyle=""))
            labels.append(label)
    handles.append(Patch(color="grey", alpha=0.3))
    labels.append("range over repetitions")
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _line(axes: Axes, points: Sequence[MinParams], model: str) -> None:
    """Draw one model: parameters with the range over repetitions, pruned ones, and widths without a network."""
    colour = _COLOURS[model]
    learnt = [p for p in points if p.found]
    widths = [p.width for p in learnt]
    axes.plot(widths, [p.median for p in learnt], "o-", color=colour, markersize=4, label=model)
    low = [min(n for n in p.parameters if n is not None) for p in learnt]
    high = [max(p.tried if n is None else n for n in p.parameters) for p in learnt]
    axes.fill_between(widths, low, high, color=colour, alpha=0.15, linewidth=0)
    pruned = [median(p.unpruned) for p in learnt]  # on top of the lines, which they may cover
    axes.plot(widths, pruned, ":", color=colour, linewidth=2.2, zorder=3, label=f"{model}, pruned")
    wrong = [p for p in learnt if not p.holds_pruned]
    axes.plot([p.width for p in wrong], [median(p.unpruned) for p in wrong], "x", color=colour)
    beyond = [p for p in points if not p.found]
    axes.plot([p.width for p in beyond], [p.tried for p in beyond], "^", color=colour, markerfacecolor="none")
