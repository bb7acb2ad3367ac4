"""Verdicts on made-up scores."""

import numpy as np
import pytest

from impala_mi.reproductions.multitask.multitask_report import (
    ALONE,
    CLAUSES,
    HEADS,
    PAIRS,
    multitask_report,
    verdict,
)

LEVELS = ["catch", "memory"]
NOTHING = dict.fromkeys(PAIRS, (0.0, -1.0, 1.0))


def scores(tmp_path, means, spread=1.0):
    """Three seeds of each head around its mean, and folders of runs without records."""
    rows = {}
    for name, mean in means.items():
        rows[name] = [dict.fromkeys(LEVELS, mean + spread * k) for k in (-1, 0, 1)]
        for seed in (1, 2, 3):
            folder = tmp_path / f"{name}-{seed}"
            folder.mkdir(exist_ok=True)
            (folder / "config.yaml").touch()
    return rows


def test_differences_are_of_capped_means(tmp_path):
    means = dict(zip((*HEADS, ALONE), (10.0, 20.0, 60.0, 200.0, 10.0), strict=True))
    report = multitask_report(tmp_path, scores(tmp_path, means), [1, 2, 3])
    gain, low, high = report.data["gains"]["per_task against shared"]
    assert gain == pytest.approx(10.0)
    half = 4.850 * np.sqrt(2 / 3)  # Welch's, equal variances of 1: t of four degrees of freedom, 1 - 0.05 / 6 / 2
    assert (gain - low, high - gain) == (pytest.approx(half, rel=1e-3), pytest.approx(half, rel=1e-3))
    assert report.data["gains"]["mi_context against mi_task"][0] == pytest.approx(40.0)
    rows = report.tables[0].rows
    assert [row[0] for row in rows] == [*HEADS, ALONE]
    assert rows[3][1:3] == ["100.0 ± 0.0", 200.0]
    assert report.verdict.startswith("3 of 3 clauses held")
    assert "none is shown" in report.verdict


def test_a_clause_needs_all_of_its_intervals_beyond_zero():
    better = (2.0, 1.0, 3.0)
    assert verdict(NOTHING).startswith("0 of 3")
    assert verdict(NOTHING | {("mi_task", "shared"): better}).startswith("0 of 3")  # but not better than per_task
    both = dict.fromkeys(CLAUSES["the multiplicative head of the task beats both"], better)
    assert verdict(NOTHING | both).startswith("1 of 3")
    assert "the contrary" in verdict(NOTHING | {("mi_context", "shared"): (-2.0, -3.0, -1.0)})


@pytest.mark.parametrize(
    ("alone", "text"),
    [((2.0, 1.0, 3.0), "there is ("), ((-2.0, -3.0, -1.0), "help each other"), ((0.0, -1.0, 1.0), "none is shown")],
)
def test_interference_is_what_levels_do_better_alone(alone, text):
    assert text in verdict(NOTHING | {(ALONE, "shared"): alone}).split("Interference:")[1]
