"""Intervals, compared with formulas and simulations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from impala_mi.analysis.stats import (
    bonferroni,
    bootstrap_interval,
    crossed_interval,
    interquartile_mean,
    mean_interval,
    mean_interval_of_known,
    welch_interval,
    welch_p,
)


def test_crossed_intervals_add_the_squares_of_both_samples() -> None:
    networks, functions = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 2.0, 3.0])
    halves = [
        stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / len(sample) ** 0.5
        for sample in (networks, functions)
    ]
    assert crossed_interval(networks, functions) == pytest.approx((7 / 3, np.hypot(*halves)))
    wide = crossed_interval(functions, level=0.99)[1] / crossed_interval(functions)[1]
    assert wide == pytest.approx(stats.t.ppf(0.995, 3) / stats.t.ppf(0.975, 3))
    assert crossed_interval(networks[1:2], functions) == pytest.approx((2.0, halves[1]))
    assert crossed_interval(np.ones(3), np.zeros(2)) == (1.0, 0.0)
    assert crossed_interval(networks[:1]) == (1.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("networks", "functions"), [(3, 200), (5, 10)])
def test_crossed_intervals_cover_the_mean(networks: int, functions: int) -> None:
    """Networks and functions both vary, and interact."""
    random, inside = np.random.default_rng(0), []
    for _ in range(1000):
        values = (
            random.normal(size=(networks, 1)) / 4
            + random.normal(size=functions)
            + random.normal(size=(networks, functions))
        )
        mean, half = crossed_interval(values.mean(1), values.mean(0))
        inside.append(abs(mean) < half)
    assert 0.94 < np.mean(inside) < 0.995


def test_means_over_axis_0_with_students_interval() -> None:
    values = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 3.0]])
    mean, half = mean_interval(values[:, 0])
    assert (mean, half) == (2.0, pytest.approx(4.302653 * 2 / 3**0.5))  # t of two degrees of freedom
    assert np.isnan(mean_interval(values[:1])[1]).all()
    means, halves = mean_interval_of_known(values)
    assert means.tolist() == [2.0, 2.0]
    assert halves.tolist() == pytest.approx([half, 12.706205])
    assert np.isnan(mean_interval_of_known(values[:1, :1])[1])


def test_welchs_intervals_agree_with_the_test_and_accept_constant_samples() -> None:
    a, b = np.array([1.0, 2.0, 4.0]), np.array([5.0, 5.5, 6.0, 7.0])
    p = welch_p(a, b)
    low, high = welch_interval(a, b, 1 - p)
    assert low < high == pytest.approx(0, abs=1e-9)
    assert np.mean([low, high]) == pytest.approx(a.mean() - b.mean())
    assert welch_p(np.ones(3), np.ones(2)) == 1
    assert welch_p(np.ones(3), np.zeros(2)) == 0
    assert 0 < welch_p(np.ones(3), b) < 0.01


def test_bonferroni_divides_the_error() -> None:
    assert bonferroni(6) == pytest.approx(1 - 0.05 / 6)


def test_bootstrap_intervals_resample_each_sample_alone() -> None:
    samples = [np.random.default_rng(0).normal(size=40), np.random.default_rng(1).normal(5, size=60)]
    low, high = bootstrap_interval(samples, lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis))
    assert (low, high) == pytest.approx(welch_interval(samples[1], samples[0]), abs=0.1)
    assert (low, high) == bootstrap_interval(
        samples, lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis)
    )  # from the same seed


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40))
def test_the_interquartile_mean_is_of_the_middle_half(values: list[float]) -> None:
    cut = len(values) // 4
    assert interquartile_mean(np.array(values)) == pytest.approx(np.mean(sorted(values)[cut : len(values) - cut]))
