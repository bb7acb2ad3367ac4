"""The comparison of heads: what it says of scores. Its runs are tried in tests/integration."""

import numpy as np
import pytest

from impala_mi.experiments.multitask import ALONE, HEADS, findings, verdict

LEVELS = ["a", "b"]


def scores(tmp_path, means, spread=1.0):
    """Three seeds of each head around its mean, and folders of runs without records."""
    found = {}
    for name, mean in means.items():
        found[name] = [dict.fromkeys(LEVELS, mean + spread * k) for k in (-1, 0, 1)]
        for seed in (1, 2, 3):
            folder = tmp_path / f"{name}-{seed}"
            folder.mkdir(exist_ok=True)
            (folder / "config.yaml").touch()
    return found


def test_gains_over_the_shared_head_are_of_capped_means(tmp_path):
    means = dict(zip((*HEADS, ALONE), (10.0, 20.0, 30.0, 200.0, 10.0), strict=True))
    found = findings(tmp_path, scores(tmp_path, means), [1, 2, 3])
    gain, low, high = found.data["gains"]["per_task"]
    assert gain == pytest.approx(10.0)
    half = 2.776445 * np.sqrt(2 / 3)  # Welch's with equal variances of 1: t of four degrees of freedom
    assert (gain - low, high - gain) == (pytest.approx(half), pytest.approx(half))
    assert found.data["gains"]["mi_context"][0] == pytest.approx(90.0)
    assert [row[0] for row in found.tables[0].rows] == [*HEADS, ALONE]
    assert found.tables[0].rows[3][1] == "100.0 ± 0.0"
    assert found.tables[0].rows[3][3] == 200.0
    assert "held for per_task, mi_task, mi_context" in found.verdict
    assert "none is shown" in found.verdict


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        ((2.0, 1.0, 3.0), "held for mi_task"),
        ((0.5, -1.0, 2.0), "was not shown"),
        ((-2.0, -3.0, -1.0), "mi_task did"),
    ],
)
def test_a_verdict_needs_an_interval_beyond_zero(gain, said):
    nothing = (0.0, -1.0, 1.0)
    assert said in verdict({"per_task": nothing, "mi_task": gain, "mi_context": nothing, ALONE: nothing})


@pytest.mark.parametrize(
    ("alone", "said"),
    [((2.0, 1.0, 3.0), "there is"), ((-2.0, -3.0, -1.0), "help each other"), ((0.0, -1.0, 1.0), "none")],
)
def test_interference_is_what_levels_do_better_alone(alone, said):
    gains = dict.fromkeys(HEADS[1:], (0.0, -1.0, 1.0))
    assert said in verdict(gains | {ALONE: alone}).split("Interference:")[1]
