"""Table 1 and verdicts."""

import math
from typing import Any

import numpy as np
import pytest

from impala_mi.analysis.stats import welch_p
from impala_mi.reproductions.language_model.language_model_report import full_size_table, perplexity_change, verdict
from impala_mi.reproductions.language_model.word_lstm import KINDS, Kind, LanguageModelSizes, model_parameters

WORDS = {"name": "words", "counts": {"train": 60, "valid": 10, "test": 10, "vocabulary": 9}}


def test_parameters_are_the_papers() -> None:
    full = LanguageModelSizes(267_735)
    for kind, expected in zip(KINDS, (88e6, 105e6, 110e6), strict=True):
        assert model_parameters(kind, full) == pytest.approx(expected, rel=0.01)
    table = full_size_table()
    assert [row[3] for row in table.rows] == ["+0.2 %", "+0.1 %", "-0.2 %", "-3.5 %"]


def results(*tests: list[float]) -> dict[Kind, list[dict[str, Any]]]:
    return {kind: [{"test": perplexity} for perplexity in runs] for kind, runs in zip(KINDS, tests, strict=True)}


@pytest.mark.parametrize(
    ("tests", "word"),
    [
        (([50, 51, 52], [40, 41, 42], [30, 31, 32]), "held on"),
        (([50, 51, 52], [40, 41, 42], [39, 41, 43]), "held in part on"),
        (([50, 51, 52], [49, 53, 50], [40, 41, 42]), "held in part on"),
        (([50, 51, 52], [49, 51, 53], [48, 50, 56]), "was not shown on"),
        (([30, 31, 32], [40, 41, 42], [50, 51, 52]), "was not shown on"),
        (([math.inf, 50, 51], [40, 41, 42], [30, 31, 32]), "held in part on"),
    ],
)
def test_verdicts(tests: tuple[list[float], ...], word: str) -> None:
    assert verdict(WORDS, results(*tests)).startswith(word)


@pytest.mark.slow
def test_models_that_are_alike_are_seldom_told_apart() -> None:
    """Equal models: at most 5 % of simulated studies show a difference; intervals of 95 % each show more."""
    random, claims, uncorrected = np.random.default_rng(0), 0, 0
    for _ in range(200):
        tests = np.exp(random.normal(4, 0.01, (len(KINDS), 3)))
        pairs = [(tests[1], tests[0]), (tests[2], tests[1]), (tests[2], tests[0])]
        intervals = [perplexity_change(*pair).interval for pair in pairs]
        claims += any(low > 0 or high < 0 for low, high in intervals)
        uncorrected += any(welch_p(*np.log(pair)) < 0.05 for pair in pairs)
    assert claims <= 10 < uncorrected


def test_runs_that_diverged_decide_nothing() -> None:
    assert perplexity_change([math.inf, 50.0], [40.0, 41.0]).better is False
    assert perplexity_change([40.0, 41.0], [math.inf, 50.0]).better is False


def test_a_change_has_welchs_interval() -> None:
    change = perplexity_change([40.0, 41.0, 42.0], [50.0, 51.0, 53.0])
    assert change.mean == pytest.approx(-20.1, abs=0.1)
    assert change.interval[0] < change.mean < change.interval[1] < 0
    assert str(change).startswith("-20.1 % (-2")
