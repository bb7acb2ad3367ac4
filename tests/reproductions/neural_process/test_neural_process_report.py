"""Means over contexts and verdicts."""

from typing import Any

import numpy as np
import pytest

from impala_mi.analysis.stats import bonferroni, crossed_interval
from impala_mi.reproductions.neural_process.decoders import DECODERS
from impala_mi.reproductions.neural_process.held_out import CONTEXTS, WEIGHTS
from impala_mi.reproductions.neural_process.neural_process_report import PAIRS, differences, overall, verdict


def _result(value: float, spread: float = 0.01) -> dict[str, Any]:
    table = {
        "networks": [[value - spread, value, value + spread]] * len(CONTEXTS),
        "functions": [[value - spread, value + spread]] * len(CONTEXTS),
    }
    return {"nll": table, "squared": table}


@pytest.mark.parametrize(
    ("mlp", "skip", "mi_x", "held", "contrary"),
    [
        (1.0, 1.0, 0.0, 4, 0),
        (1.0, 1.0, 2.0, 2, 2),
        (1.0, 0.0, 1.0, 1, 1),
        (0.0, -1.0, 0.0, 0, 2),
        (0.0, 0.0, 0.0, 0, 0),
    ],
)
def test_the_verdict_follows_from_the_numbers(
    mlp: float, skip: float, mi_x: float, held: int, contrary: int
) -> None:
    results = {name: _result(0.0) for name in DECODERS}
    results |= {"mlp": _result(mlp), "skip-mlp": _result(skip), "mi-x": _result(mi_x)}
    text = verdict(differences(results))
    assert text.startswith(f"{held} of 4 comparisons with the paper's two baselines held, {contrary} came out the")
    assert f"MLP {mlp:+.3f}" in text


def test_differences_are_of_pairs() -> None:
    """Networks far apart, and each of them a little worse than its pair."""
    baseline = {"networks": [[1.0, 5.0, 9.0]] * len(CONTEXTS), "functions": [[3.0, 7.0]] * len(CONTEXTS)}
    other = {"networks": [[1.1, 5.1, 9.1]] * len(CONTEXTS), "functions": [[3.1, 7.1]] * len(CONTEXTS)}
    value, half = overall(other, baseline)
    assert value == pytest.approx(0.1)
    assert half < 1e-9


def _noise(random: np.random.Generator) -> dict[str, Any]:
    """Errors of three networks on 50 functions, the same for all numbers of contexts."""
    values = random.normal(size=(3, 1)) + random.normal(size=(3, 50))
    table = {"networks": [values.mean(1)] * len(CONTEXTS), "functions": [values.mean(0)] * len(CONTEXTS)}
    return {"nll": {key: np.array(rows) for key, rows in table.items()}}


@pytest.mark.slow
def test_decoders_that_are_alike_are_seldom_told_apart() -> None:
    """Equal decoders: at most 5 % of simulated studies show a difference; intervals of 95 % each show more."""
    random, claims, uncorrected = np.random.default_rng(0), 0, 0
    for _ in range(200):
        results = {name: _noise(random) for name in DECODERS}
        found = differences(results)
        claims += any(abs(value) > half for value, half in found.values())
        each = [overall(results[name]["nll"], results[mi]["nll"]) for name, mi in PAIRS]
        uncorrected += any(abs(value) > half for value, half in each)
        text = verdict(found)
        assert text.startswith("0 of 4") or any(value > half for value, half in found.values())
    assert claims <= 10 < uncorrected


def test_all_differences_hold_together() -> None:
    random = np.random.default_rng(0)
    results = {name: _noise(random) for name in DECODERS}
    networks, functions = (
        WEIGHTS @ (results["mlp"]["nll"][key] - results["mi-x"]["nll"][key]) for key in ("networks", "functions")
    )
    expected = crossed_interval(networks, functions, level=bonferroni(6))
    assert differences(results)["mlp", "mi-x"] == pytest.approx(expected)
