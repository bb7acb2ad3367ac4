"""What `impala_mi.experiments.expressivity` found: the smallest networks, figure 2 and its claims."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

ERROR = 0.1
FROM_WIDTH = 3
"""Of the statements; below it z / 2 alone is within the error of gating."""
COLOURS = {"MLP": "tab:blue", "MI": "tab:green", "low rank": "tab:orange", "diagonal": "tab:purple"}
_SQUARE = (1.5, 2.5)
"""Exponents that are called quadratic growth."""


@dataclass(frozen=True)
class Trained:
    """A network after training."""

    function: str
    size: int
    rate: float
    repetition: int
    parameters: int
    error: float | None
    """Mean squared norm of the error; None where it is not finite."""
    left: int
    """Parameters that are not pruned."""
    error_pruned: float | None


@dataclass(frozen=True)
class Point:
    """What a model needs for a function of one width; of each repetition where there are several values."""

    model: str
    function: str
    width: int
    parameters: list[int | None]
    """None: no network that was trained will do."""
    parameters_mean: list[int | None]
    """By the mean of the squared error over outputs instead of its sum."""
    size: list[int | None]
    left: list[int | None]
    """Parameters that are not pruned."""
    error: list[float | None]
    error_pruned: list[float | None]
    tried: int
    """Parameters of the largest network that was trained."""

    @property
    def needs(self) -> float:
        """Median number of parameters; infinite where most repetitions found no network."""
        return median(self.parameters)

    @property
    def holds_pruned(self) -> bool:
        """Whether every network that was found is still within the error once it is pruned."""
        after = [e for n, e in zip(self.parameters, self.error_pruned, strict=True) if n is not None]
        return all(e is not None and e <= ERROR for e in after)


def median(values: Sequence[float | None]) -> float:
    """The middle one, of an even number the upper; None counts as infinite."""
    return sorted(math.inf if v is None else float(v) for v in values)[len(values) // 2]


def needed(found: Sequence[Trained], function: str, repetitions: int, scale: float = 1.0) -> list[Trained | None]:
    """Of each repetition, the smallest network of a function whose error times `scale` is within `ERROR`.

    Of a size it is that of the best learning rate; None where no size will do.
    """
    smallest: list[Trained | None] = []
    for repetition in range(repetitions):
        own = [t for t in found if (t.function, t.repetition) == (function, repetition)]
        good = [(t.size, t.error, t) for t in own if t.error is not None and t.error * scale <= ERROR]
        smallest.append(min(good, key=lambda g: g[:2])[2] if good else None)
    return smallest


def point(found: Sequence[Trained], model: str, function: str, width: int, outputs: int, repetitions: int) -> Point:
    """Sum up all networks of one model and width for a function of so many outputs."""
    smallest = needed(found, function, repetitions)
    by_mean = needed(found, function, repetitions, 1 / outputs)

    def of(name: str, some: Sequence[Trained | None] = smallest) -> list[Any]:
        return [None if t is None else getattr(t, name) for t in some]

    return Point(
        model, function, width,
        parameters=of("parameters"), parameters_mean=of("parameters", by_mean), size=of("size"), left=of("left"),
        error=of("error"), error_pruned=of("error_pruned"),
        tried=max(t.parameters for t in found if t.function == function),
    )  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """Something that the paper says of figure 2."""

    text: str
    held: bool
    numbers: str

    def __str__(self) -> str:
        return f"{self.text} ({self.numbers})"


Curves = dict[tuple[str, str], list[Point]]
"""By model and function, in the order of width."""


def curves(points: Sequence[Point]) -> Curves:
    """Points by model and function."""
    found: Curves = {}
    for p in sorted(points, key=lambda p: p.width):
        found.setdefault((p.model, p.function), []).append(p)
    return found


def _wide(some: Sequence[Point]) -> list[Point]:
    return [p for p in some if p.width >= FROM_WIDTH]


def growth(some: Sequence[Point], of: Callable[[float], float] = math.log) -> tuple[float, float, float] | None:
    """Slope of log(parameters) over `of` the width, its standard error and the residual sum of squares.

    Of the widths from `FROM_WIDTH` on at which a network was found; None of fewer than three.
    """
    there = [p for p in _wide(some) if math.isfinite(p.needs)]
    if len(there) < 3:
        return None
    x = np.array([of(p.width) for p in there])
    y = np.log([p.needs for p in there])
    slope, intercept = np.polyfit(x, y, 1)
    residual = float(((y - slope * x - intercept) ** 2).sum())
    error = math.sqrt(residual / (len(x) - 2) / float(((x - x.mean()) ** 2).sum()))
    return float(slope), error, residual


def _needs(p: Point) -> str:
    return f"{p.needs:,.0f}" if math.isfinite(p.needs) else f"more than {p.tried:,}"


def _fewer(found: Curves, function: str, less: str, more: str) -> Claim:
    pairs = list(zip(_wide(found[less, function]), _wide(found[more, function]), strict=True))
    held = [a.needs < (b.needs if math.isfinite(b.needs) else b.tried) for a, b in pairs]
    a, b = pairs[-1]
    return Claim(
        f"{function}: {less} needs fewer parameters than {more}", all(held),
        f"at {sum(held)} of {len(held)} widths; at {a.width} {_needs(a)} against {_needs(b)}",
    )  # fmt: skip


def _quadratic(found: Curves, function: str) -> Claim:
    grows = growth(found["MI", function])
    text = f"{function}: the growth of MI is quadratic"
    if grows is None:
        return Claim(text, False, "found at fewer than three widths")
    return Claim(text, _SQUARE[0] <= grows[0] <= _SQUARE[1], f"exponent {grows[0]:.2f} ± {grows[1]:.2f}")


def _exponential(found: Curves, function: str) -> Claim:
    # Of so few widths, an exponential must fit twice as well before it is believed.
    some = found["MLP", function]
    power, exponential = growth(some), growth(some, of=float)
    text = f"{function}: the MLP grows exponentially rather than as a power of d"
    beyond = [str(p.width) for p in _wide(some) if not math.isfinite(p.needs)]
    more = f"; more than was tried at {', '.join(beyond)}" if beyond else ""
    if power is None or exponential is None:
        return Claim(text, False, f"found at fewer than three widths{more}")
    return Claim(
        text, exponential[2] < power[2] / 2,
        f"residuals {exponential[2]:.3f} of an exponential, {power[2]:.3f} of the power "
        f"{power[0]:.2f} ± {power[1]:.2f}{more}",
    )  # fmt: skip


def _left(found: Curves, model: str, function: str) -> tuple[list[float], str, bool]:
    """The share that pruning leaves at each width, the same in words, and whether the error allows it."""
    there = [p for p in _wide(found[model, function]) if math.isfinite(p.needs)]
    shares = [median(p.left) / p.needs for p in there]
    if not there:
        return [], "no network was found", False
    within = sum(p.holds_pruned for p in there)
    words = f"{min(shares):.0%} to {max(shares):.0%} left, within the error at {within} of {len(there)} widths"
    return shares, words, within == len(there)


def _compact(found: Curves, function: str) -> Claim:
    shares, words, within = _left(found, "MI", function)
    return Claim(
        f"{function}: pruning leaves at most half of MI", bool(shares) and max(shares) <= 0.5 and within, words
    )


def _all_used(found: Curves, function: str) -> Claim:
    shares, words, _ = _left(found, "MLP", function)
    return Claim(f"{function}: pruning leaves at least 0.9 of the MLP", bool(shares) and min(shares) >= 0.9, words)


def claims(found: Curves, outputs: str) -> list[Claim]:
    """What section 3 and the caption of figure 2 say, and whether it is so from `FROM_WIDTH` on.

    Args:
        found: points by model and function.
        outputs: the end of the functions' names: "" for those with one output.
    """
    summation, dot = f"summation{outputs}", f"dot product{outputs}"
    products = [f for f in (f"gating{outputs}", dot) if ("MI", f) in found]
    out = [_fewer(found, summation, "MLP", "MI")]
    for function in products:
        out += [_fewer(found, function, "MI", "MLP"), _quadratic(found, function), _exponential(found, function)]
    out += [_compact(found, function) for function in (summation, dot) if ("MI", function) in found]
    return [*out, *(_all_used(found, function) for function in (summation, *products))]


def verdict(one: Sequence[Claim], several: Sequence[Claim]) -> str:
    """Held: all statements about functions with one output did; those with d outputs are told apart."""
    held = [c for c in one if c.held]
    how = "held" if len(held) == len(one) else "held in part" if held else "did not hold"
    failed = [c for c in one if not c.held]
    said = [f"{word}: {'; '.join(map(str, told))}" for word, told in (("yes", held), ("no", failed)) if told]
    others = [str(c) for c in several if not c.held]
    return (
        f"{how}, {len(held)} of {len(one)} statements about functions with one output. {'. '.join(said)}. With d "
        f"outputs {len(several) - len(others)} of {len(several)}"
        + (f"; no: {'; '.join(others)}." if others else ".")
    )


def draw(found: Curves, functions: Sequence[str], models: Sequence[str], titles: dict[str, str]) -> Figure:
    """Parameters over width, a panel a function; dotted: pruned."""
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
    handles += [
        Line2D([], [], color="grey", marker="^", markerfacecolor="none", linestyle=""),
        Line2D([], [], color="grey", marker="x", linestyle=""),
    ]
    labels += ["more than the largest that was tried", "not within the error once pruned"]
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
