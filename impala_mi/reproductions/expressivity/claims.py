"""What section 3 and the caption of figure 2 say, and whether it is so."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from impala_mi.reproductions.expressivity.needs import Curves, Point, median

FROM_WIDTH = 3
"""Of the statements; below it z / 2 alone is within the error of gating."""
_SQUARE = (1.5, 2.5)
"""Exponents that are called quadratic growth."""


@dataclass(frozen=True)
class Claim:
    """Something that the paper says of figure 2."""

    text: str
    held: bool
    numbers: str

    def __str__(self) -> str:
        return f"{self.text} ({self.numbers})"


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
    """Held: all statements about functions with one output did; those with d outputs are told apart.

    What did not hold is named, with numbers; the first table has the rest.
    """
    held = sum(c.held for c in one)
    how = "held" if held == len(one) else "held in part" if held else "did not hold"
    return f"{how}. Of functions with one output {_count(one)}. With d outputs {_count(several)}."


def _count(some: Sequence[Claim]) -> str:
    failed = [str(c) for c in some if not c.held]
    told = f" (no: {'; '.join(failed)})" if failed else ""
    return f"{len(some) - len(failed)} of {len(some)} statements{told}"


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


def _wide(some: Sequence[Point]) -> list[Point]:
    return [p for p in some if p.width >= FROM_WIDTH]


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
