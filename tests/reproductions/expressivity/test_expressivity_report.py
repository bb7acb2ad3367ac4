"""Statements about made-up curves."""

import math

import numpy as np
import pytest

from impala_mi.analysis.stats import bonferroni
from impala_mi.reproductions.expressivity.expressivity_report import PRODUCTS, check_statements, growth, verdict
from impala_mi.reproductions.expressivity.min_params import MinParams, curves

WIDTHS = (1, 3, 5, 8, 10, 20)
FUNCTIONS = ("summation", "gating", "dot product")


def result(model: str, function: str, width: int, *parameters: float | None, size: int = 1) -> MinParams:
    counts = [None if n is None else round(n) for n in parameters]
    unpruned = [None if n is None else round(0.3 * n) for n in counts]
    errors = [0.05] * len(counts)
    sizes = [None if n is None else size for n in counts]
    return MinParams(model, function, width, counts, counts, sizes, unpruned, errors, errors, tried=10**6)


def results(mlp: dict[int, float | None], mi: dict[int, float], size: int = 1) -> list[MinParams]:
    return [
        result(model, f, d, n, size=size)
        for f in FUNCTIONS
        for model, by in (("MLP", mlp), ("MI", mi))
        for d, n in by.items()
    ]


def test_statements_that_hold() -> None:
    by = curves(results({d: 1000 * math.exp(0.5 * d) for d in WIDTHS}, {d: d * d + 2 * d + 3 for d in WIDTHS}))
    checks = {c.text: c for c in check_statements(by, "")}
    fit = growth(by["MLP", "gating"], 0.95)
    assert fit is not None
    assert fit[1] == pytest.approx(0.5, abs=0.01)
    for function in ("gating", "dot product"):
        assert checks[f"{function}: MI needs fewer parameters than MLP"].held
        unit = checks[f"{function}: one multiplicative unit suffices"]
        assert unit.held
        assert unit.numbers == "d^2 + 2d + 3 parameters by arithmetic, 443 at 20"
        assert checks[f"{function}: the MLP grows faster than a power of d"].held
        assert not checks[f"{function}: pruning leaves at least 0.9 of the MLP"].held
    assert not checks["summation: MLP needs fewer parameters than MI"].held
    assert checks["summation: pruning leaves at most half of MI"].held
    assert verdict(list(checks.values()), []).startswith(
        "of functions with one output 8 of 12 statements held (not: "
    )


def test_statements_that_do_not_hold() -> None:
    unknown = {20: None}
    by = curves(results({d: 9 * d**2 for d in WIDTHS} | unknown, {d: 20 * d**3 for d in WIDTHS}, size=7))
    checks = {c.text: c for c in check_statements(by, "")}
    fewer = checks["gating: MI needs fewer parameters than MLP"]
    assert not fewer.held  # only at width 20
    assert "at 1 of 5 widths; at 20 160,000 against more than 1,000,000" in fewer.numbers
    unit = checks["gating: one multiplicative unit suffices"]
    assert not unit.held
    assert unit.numbers == "7 to 7 units at widths 3 to 20"
    power = checks["gating: the MLP grows faster than a power of d"]
    assert not power.held
    assert "as a power 2.00" in power.numbers
    assert "more than was tried at 20" in power.numbers
    assert not checks["summation: MLP needs fewer parameters than MI"].held


def test_fewer_parameters_need_every_repetition_of_both() -> None:
    """Medians of 10 and 20, but one repetition of the smaller model needs more than one of the larger."""
    for high, held in ((19, True), (21, False), (None, False)):
        points = [
            result(model, f, d, *parameters)
            for f in FUNCTIONS
            for model, parameters in (("MLP", (20, 20, 30)), ("MI", (9, 10, high)))
            for d in WIDTHS
        ]
        checks = {c.text: c.held for c in check_statements(curves(points), "")}
        assert checks["dot product: MI needs fewer parameters than MLP"] is held


def test_models_that_are_alike_are_seldom_told_apart() -> None:
    """At most 5 % of simulated studies make a claim; comparing medians would make one in 1 - (15/16)^3."""
    random, claims, by_medians = np.random.default_rng(0), 0, 0
    for _ in range(300):
        points = [
            result(model, f, d, *random.lognormal(4, 0.5, 3).tolist())
            for f in FUNCTIONS
            for model in ("MLP", "MI")
            for d in (3, 5, 8, 12)
        ]
        by = curves(points)
        claims += any(c.held for c in check_statements(by, "") if "needs fewer" in c.text)
        by_medians += any(
            all(a.median < b.median for a, b in zip(by[few, f], by[many, f], strict=True))
            for f, few, many in (("summation", "MLP", "MI"), ("gating", "MI", "MLP"), ("dot product", "MI", "MLP"))
        )
    assert claims <= 15 < by_medians


@pytest.mark.parametrize("widths", [(3, 5, 8, 12), (3, 4, 5, 6, 8, 10, 15, 20)])
def test_powers_with_noise_are_seldom_called_exponential(widths: tuple[int, ...]) -> None:
    """Not for any of the functions that are judged, in 95 % of cases."""
    random, claims = np.random.default_rng(0), 0
    for _ in range(300):
        fits = [
            growth([result("MLP", "gating", d, 1e4 * d**2 * random.lognormal(0, 0.2)) for d in widths], level)
            for level in [bonferroni(PRODUCTS)] * PRODUCTS
        ]
        claims += any(fit is not None and fit[1] > fit[2] for fit in fits)
    assert claims <= 15
