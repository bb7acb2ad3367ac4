"""Leads and verdicts."""

import numpy as np
import pytest

from impala_mi.reproductions.regression.regression_report import (
    Lead,
    RepetitionMean,
    curve_data,
    lead,
    log_errors,
    mean_over_repetitions,
    verdict,
)
from impala_mi.reproductions.regression.task_models import BASELINES, MODELS, OURS

TASKS = (20, 40, 60)


def test_logarithms_are_of_all_tasks_and_of_each_kind() -> None:
    curve = np.array([0.01, 0.1]).reshape(1, 1, 1, 2)
    np.testing.assert_allclose(log_errors(curve).ravel(), [np.log10(0.055), -2.0, -1.0])
    means = mean_over_repetitions(np.array([1.0, 2.0, 6.0]))
    assert means.mean == 3.0
    assert means.error == pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3))


def test_leads_are_of_pairs() -> None:
    ours, luck = np.zeros((4, 3)), np.array([0.0, 5.0, -5.0])
    other = ours + luck + np.array([[2.0], [2.0], [2.0], [1.0]])
    exponents = np.stack([other, other, ours + luck])  # of all models, the same for both kinds of tasks
    data = curve_data(10 ** np.stack([exponents, exponents], -1), [7, 8, 9])
    assert [model["parameters"] for model in data.values()] == [7, 8, 9]
    assert list(data) == list(MODELS)
    means = lead(data[BASELINES[0]], data[OURS])
    assert (means.end.mean, means.end.error) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))
    assert means.throughout.mean == pytest.approx(1.75)


def test_verdicts() -> None:
    def leads(*means: float, error: float = 0.1) -> dict[int, dict[str, Lead]]:
        means = {t: RepetitionMean(m, error, 60) for t, m in zip(TASKS, means, strict=True)}
        return {t: dict.fromkeys(BASELINES, Lead(m, m)) for t, m in means.items()}

    assert verdict(leads(1.0, 1.5, 2.0)).startswith("held, 14 of 14")
    assert verdict(leads(1.0, 1.0, 1.1)).startswith("held in part, 12 of 14")  # no growth that is sure
    assert verdict(leads(-0.1, 0.1, 0.0)).startswith("was not shown, 0 of 14")
    assert verdict(leads(1.0, 1.5, 2.0, error=3.0)).startswith("was not shown, 0 of 14")
    assert verdict(leads(0.25, 0.25, 0.25)).startswith("was not shown, 0 of 14")  # sure if it were the only one


@pytest.mark.slow
def test_models_that_are_alike_are_seldom_told_apart() -> None:
    """Equal models: at most 5 % of simulated studies show a lead; intervals of 95 % each show more."""
    random, claims, uncorrected = np.random.default_rng(0), 0, 0
    for _ in range(200):
        values = random.normal(size=(len(TASKS), len(BASELINES), 2, 10))
        means = [[[mean_over_repetitions(v) for v in kinds] for kinds in rows] for rows in values]
        leads = {
            tasks: {model: Lead(*kinds) for model, kinds in zip(BASELINES, rows, strict=True)}
            for tasks, rows in zip(TASKS, means, strict=True)
        }
        claims += " 0 of 14" not in verdict(leads)
        uncorrected += any(mean.above_zero(0.95) for rows in means for kinds in rows for mean in kinds)
    assert claims <= 10 < uncorrected
