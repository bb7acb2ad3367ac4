"""Statements about made-up curves."""

import math

import pytest

from impala_mi.reproductions.expressivity.expressivity_report import check_statements, growth
from impala_mi.reproductions.expressivity.min_params import MinParams, curves

WIDTHS = (1, 3, 5, 8, 10, 20)


def result(model: str, function: str, width: int, parameters: float | None) -> MinParams:
    count = None if parameters is None else round(parameters)
    unpruned = None if count is None else round(0.3 * count)
    return MinParams(model, function, width, [count], [count], [1], [unpruned], [0.05], [0.05], tried=10**6)


def results(mlp: dict[int, float | None], mi: dict[int, float]) -> list[MinParams]:
    functions = ("summation", "gating", "dot product")
    return [
        result(model, f, d, n) for f in functions for model, by in (("MLP", mlp), ("MI", mi)) for d, n in by.items()
    ]


def test_statements_that_hold() -> None:
    by = curves(results({d: 1000 * math.exp(0.5 * d) for d in WIDTHS}, {d: 7 * d**2 for d in WIDTHS}))
    held = {c.text: c.held for c in check_statements(by, "")}
    slope = growth(by["MI", "gating"])
    assert slope is not None
    assert slope[0] == pytest.approx(2.0, abs=0.01)
    for function in ("gating", "dot product"):
        assert held[f"{function}: MI needs fewer parameters than MLP"]
        assert held[f"{function}: the growth of MI is quadratic"]
        assert held[f"{function}: the MLP grows exponentially rather than as a power of d"]
        assert not held[f"{function}: pruning leaves at least 0.9 of the MLP"]
    assert not held["summation: MLP needs fewer parameters than MI"]
    assert held["summation: pruning leaves at most half of MI"]


def test_statements_that_do_not_hold() -> None:
    unknown = {20: None}
    by = curves(results({d: 9 * d**2 for d in WIDTHS} | unknown, {d: 20 * d**3 for d in WIDTHS}))
    checks = {c.text: c for c in check_statements(by, "")}
    fewer = checks["gating: MI needs fewer parameters than MLP"]
    assert not fewer.held  # only at width 20
    assert "at 1 of 5 widths; at 20 160,000 against more than 1,000,000" in fewer.numbers
    assert not checks["gating: the growth of MI is quadratic"].held
    power = checks["gating: the MLP grows exponentially rather than as a power of d"]
    assert not power.held
    assert "more than was tried at 20" in power.numbers
    assert not checks["summation: MLP needs fewer parameters than MI"].held
