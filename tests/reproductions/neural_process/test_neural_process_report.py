"""Means over contexts and verdicts."""

from typing import Any

import pytest

from impala_mi.reproductions.neural_process.decoders import DECODERS
from impala_mi.reproductions.neural_process.held_out import CONTEXTS
from impala_mi.reproductions.neural_process.neural_process_report import overall, verdict
from tests.reproductions.neural_process.small_protocol import SMALL


def _result(value: float, spread: float = 0.01) -> dict[str, Any]:
    table = {
        "networks": [[value - spread, value, value + spread]] * len(CONTEXTS),
        "functions": [[value - spread, value + spread]] * len(CONTEXTS),
    }
    return {"nll": table, "squared": table}


@pytest.mark.parametrize(
    ("mlp", "skip", "mi_x", "word"),
    [
        (1.0, 1.0, 0.0, "it held."),
        (1.0, 1.0, 2.0, "it held in part."),
        (1.0, 0.0, 1.0, "it held in part."),
        (0.0, -1.0, 0.0, "it did not hold."),
        (0.0, 0.0, 0.0, "it did not hold."),
    ],
)
def test_the_verdict_follows_from_the_numbers(mlp: float, skip: float, mi_x: float, word: str) -> None:
    results = {name: _result(0.0) for name in DECODERS}
    results |= {"mlp": _result(mlp), "skip-mlp": _result(skip), "mi-x": _result(mi_x)}
    text = verdict(SMALL, results, _result(-2.0), 0.1)
    assert text.startswith(word)
    assert f"{mlp:+.3f}" in text


def test_differences_are_of_pairs() -> None:
    """Networks far apart, and each of them a little worse than its pair."""
    baseline = {"networks": [[1.0, 5.0, 9.0]] * len(CONTEXTS), "functions": [[3.0, 7.0]] * len(CONTEXTS)}
    other = {"networks": [[1.1, 5.1, 9.1]] * len(CONTEXTS), "functions": [[3.1, 7.1]] * len(CONTEXTS)}
    value, half = overall(other, baseline)
    assert value == pytest.approx(0.1)
    assert half < 1e-9
