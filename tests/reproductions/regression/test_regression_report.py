"""Leads and verdicts."""

import numpy as np
import pytest

from impala_mi.reproductions.regression.regression_report import (
    Lead,
    RepetitionMean,
    lead,
    log_errors,
    mean_over_repetitions,
    verdict,
)
from impala_mi.reproductions.regression.task_models import BASELINES


def test_logarithms_are_of_all_tasks_and_of_each_kind() -> None:
    curve = np.array([0.01, 0.1]).reshape(1, 1, 1, 2)
    np.testing.assert_allclose(log_errors(curve).ravel(), [np.log10(0.055), -2.0, -1.0])
    means = mean_over_repetitions(np.array([1.0, 2.0, 6.0]))
    assert means.mean == 3.0
    assert means.error == pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3))


def test_leads_are_of_pairs() -> None:
    ours, luck = np.zeros((4, 3)), np.array([0.0, 5.0, -5.0])
    other = ours + luck + np.array([[2.0], [2.0], [2.0], [1.0]])
    means = lead(other, ours + luck)
    assert (means.end.mean, means.end.error) == (1.0, 0.0)
    assert means.throughout.mean == 1.75


def test_verdicts() -> None:
    def leads(*means: float, error: float = 0.1) -> dict[int, dict[str, Lead]]:
        means = {t: RepetitionMean(m, error, 60) for t, m in zip((20, 40, 60), means, strict=True)}
        return {t: dict.fromkeys(BASELINES, Lead(m, m)) for t, m in means.items()}

    assert verdict(leads(1.0, 1.5, 2.0)).startswith("held, 14 of 14")
    assert verdict(leads(1.0, 1.0, 1.1)).startswith("held in part, 12 of 14")  # no growth that is sure
    assert verdict(leads(-0.1, 0.1, 0.0)).startswith("did not hold")
    assert verdict(leads(1.0, 1.5, 2.0, error=3.0)).startswith("did not hold")
