"""Verdicts on made-up scores."""

import json

import numpy as np
import pytest

from impala_mi.analysis.stats import welch_interval
from impala_mi.reproductions.multitask.multitask_report import (
    ALONE,
    CLAUSES,
    HEADS,
    PAIRS,
    gains_between,
    multitask_data,
    report_from_data,
    verdict,
)
from impala_mi.reproductions.study_report import as_stored

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
    report = report_from_data(multitask_data(tmp_path, scores(tmp_path, means), [1, 2, 3]))
    capped = {name: np.array(rows).clip(max=100).mean(1) for name, rows in report.data["scores"].items()}
    gains = gains_between(capped)
    gain, low, high = gains["per_task", "shared"]
    assert gain == pytest.approx(10.0)
    half = 4.850 * np.sqrt(2 / 3)  # Welch's, equal variances of 1: t of four degrees of freedom, 1 - 0.05 / 6 / 2
    assert (gain - low, high - gain) == (pytest.approx(half, rel=1e-3), pytest.approx(half, rel=1e-3))
    assert gains["mi_context", "mi_task"][0] == pytest.approx(40.0)
    assert report.tables[1].rows[0] == ["per_task", "shared", "+10.0 [+6.0, +14.0]"]
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


@pytest.mark.slow
def test_heads_that_are_alike_are_seldom_told_apart():
    """Equal heads: at most 5 % of simulated studies make any claim; intervals of 95 % each make more."""
    random, claims, uncorrected = np.random.default_rng(0), 0, 0
    for _ in range(200):
        capped = {name: random.normal(size=3) for name in (*HEADS, ALONE)}
        gains = gains_between(capped)
        text = verdict(gains)
        claims += not text.startswith("0 of 3") or "the contrary" in text or "none is shown" not in text
        each = [welch_interval(capped[a], capped[b]) for a, b in PAIRS]
        uncorrected += any(low > 0 or high < 0 for low, high in each)
    assert claims <= 10 < uncorrected


def test_a_report_is_made_again_from_its_data(tmp_path):
    means = dict(zip((*HEADS, ALONE), (10.0, 20.0, 60.0, 90.0, 10.0), strict=True))
    data = multitask_data(tmp_path, scores(tmp_path, means), [1, 2, 3])
    frames = {"frames": [1e6, 2e6], "mean": [1.0, 2.0]}
    data["curves"] = {"shared": frames, "mi_task": frames | {"low": [0.5, None], "high": [1.5, None]}}
    again = report_from_data(json.loads(json.dumps(as_stored(data))))
    assert again.tables == report_from_data(data).tables
    lines = again.figures["multitask"].axes[0].lines
    assert [line.get_label() for line in lines] == ["shared", "mi_task"]
    assert lines[0].get_xdata().tolist() == [1.0, 2.0]
