"""What is said of made-up curves."""

import math

import pytest

from impala_mi.reproductions.expressivity.claims import claims, growth
from impala_mi.reproductions.expressivity.needs import Point, curves

WIDTHS = (1, 3, 5, 8, 10, 20)


def point(model: str, function: str, width: int, parameters: float | None) -> Point:
    count = None if parameters is None else round(parameters)
    left = None if count is None else round(0.3 * count)
    return Point(model, function, width, [count], [count], [1], [left], [0.05], [0.05], tried=10**6)


def made_up(mlp: dict[int, float | None], mi: dict[int, float]) -> list[Point]:
    functions = ("summation", "gating", "dot product")
    return [point("MLP", f, d, n) for f in functions for d, n in mlp.items()] + [
        point("MI", f, d, n) for f in functions for d, n in mi.items()
    ]


def test_statements_hold_where_they_do() -> None:
    found = curves(made_up({d: 1000 * math.exp(0.5 * d) for d in WIDTHS}, {d: 7 * d**2 for d in WIDTHS}))
    held = {c.text: c.held for c in claims(found, "")}
    slope = growth(found["MI", "gating"])
    assert slope is not None
    assert slope[0] == pytest.approx(2.0, abs=0.01)
    for function in ("gating", "dot product"):
        assert held[f"{function}: MI needs fewer parameters than MLP"]
        assert held[f"{function}: the growth of MI is quadratic"]
        assert held[f"{function}: the MLP grows exponentially rather than as a power of d"]
        assert not held[f"{function}: pruning leaves at least 0.9 of the MLP"]
    assert not held["summation: MLP needs fewer parameters than MI"]
    assert held["summation: pruning leaves at most half of MI"]


def test_statements_do_not_hold_where_they_do_not() -> None:
    unknown = {20: None}
    found = curves(made_up({d: 9 * d**2 for d in WIDTHS} | unknown, {d: 20 * d**3 for d in WIDTHS}))
    by = {c.text: c for c in claims(found, "")}
    assert not by["gating: MI needs fewer parameters than MLP"].held  # at 20 alone
    assert (
        "at 1 of 5 widths; at 20 160,000 against more than 1,000,000"
        in by["gating: MI needs fewer parameters than MLP"].numbers
    )
    assert not by["gating: the growth of MI is quadratic"].held
    power = by["gating: the MLP grows exponentially rather than as a power of d"]
    assert not power.held
    assert "more than was tried at 20" in power.numbers
    assert not by["summation: MLP needs fewer parameters than MI"].held
