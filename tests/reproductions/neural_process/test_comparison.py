"""Intervals and verdicts."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from impala_mi.reproductions.neural_process.comparison import interval, overall, verdict
from impala_mi.reproductions.neural_process.evaluation import CONTEXTS
from impala_mi.reproductions.neural_process.model import DECODERS
from tests.reproductions.neural_process.small import SMALL


def test_intervals_count_networks_and_functions() -> None:
    networks, functions = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 2.0, 3.0])
    halves = [
        stats.t.ppf(0.975, len(some) - 1) * some.std(ddof=1) / len(some) ** 0.5 for some in (networks, functions)
    ]
    assert interval(networks, functions) == pytest.approx((7 / 3, np.hypot(*halves)))
    assert interval(networks[1:2], functions) == pytest.approx((2.0, halves[1]))
    assert interval(np.ones(3), np.zeros(2)) == (1.0, 0.0)


@pytest.mark.parametrize(("networks", "functions"), [(3, 200), (5, 10)])
def test_intervals_cover_the_mean(networks: int, functions: int) -> None:
    """Of networks and functions that both vary, and their interaction."""
    random, found = np.random.default_rng(0), []
    for _ in range(1000):
        values = (
            random.normal(size=(networks, 1)) / 4
            + random.normal(size=functions)
            + random.normal(size=(networks, functions))
        )
        mean, half = interval(values.mean(1), values.mean(0))
        found.append(abs(mean) < half)
    assert 0.94 < np.mean(found) < 0.995


def _result(value: float, spread: float = 0.01) -> dict[str, Any]:
    table = {
        "networks": [[value - spread, value, value + spread]] * len(CONTEXTS),
        "functions": [[value - spread, value + spread]] * len(CONTEXTS),
    }
    return {"nll": table, "squared": table}


@pytest.mark.parametrize(
    ("mlp", "skip", "mi_x", "wanted"),
    [
        (1.0, 1.0, 0.0, "it held."),
        (1.0, 1.0, 2.0, "it held in part."),
        (1.0, 0.0, 1.0, "it held in part."),
        (0.0, -1.0, 0.0, "it did not hold."),
        (0.0, 0.0, 0.0, "it did not hold."),
    ],
)
def test_the_verdict_follows_from_the_numbers(mlp: float, skip: float, mi_x: float, wanted: str) -> None:
    found = {name: _result(0.0) for name in DECODERS}
    found |= {"mlp": _result(mlp), "skip-mlp": _result(skip), "mi-x": _result(mi_x)}
    text = verdict(SMALL, found, _result(-2.0), 0.1)
    assert text.startswith(wanted)
    assert f"{mlp:+.3f}" in text


def test_differences_are_of_pairs() -> None:
    """Networks far apart, and each of them a little worse than its pair."""
    one = {"networks": [[1.0, 5.0, 9.0]] * len(CONTEXTS), "functions": [[3.0, 7.0]] * len(CONTEXTS)}
    other = {"networks": [[1.1, 5.1, 9.1]] * len(CONTEXTS), "functions": [[3.1, 7.1]] * len(CONTEXTS)}
    value, half = overall(other, one)
    assert value == pytest.approx(0.1)
    assert half < 1e-9
