"""Table 1 and verdicts."""

import math
from typing import Any

import pytest

from impala_mi.reproductions.language_model.language_model_report import full_size_table, perplexity_change, verdict
from impala_mi.reproductions.language_model.word_lstm import KINDS, Kind, LanguageModelSizes, model_parameters
from tests.reproductions.language_model.small_models import corpus


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
    assert verdict(corpus(), results(*tests)).startswith(word)


def test_runs_that_diverged_decide_nothing() -> None:
    assert perplexity_change([math.inf, 50.0], [40.0, 41.0]).better is False
    assert perplexity_change([40.0, 41.0], [math.inf, 50.0]).better is False


def test_a_change_has_welchs_interval() -> None:
    change = perplexity_change([40.0, 41.0, 42.0], [50.0, 51.0, 53.0])
    assert change.mean == pytest.approx(-20.1, abs=0.1)
    assert change.interval[0] < change.mean < change.interval[1] < 0
    assert str(change).startswith("-20.1 % (-2")
