"""Means, intervals and tests that several parts of the package report."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Default confidence level of an interval."""


def t_factor(count: int | np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Standard errors in half of a two-sided Student's t interval of the mean of `count` values (2 or more)."""
    return np.asarray(stats.t.ppf(0.5 + level / 2, np.asarray(count) - 1))


def mean_interval(values: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Mean over axis 0 and half of its interval (Student's t), which is NaN for a single value."""
    count = len(values)
    if count == 1:
        return values[0], np.nan * values[0]
    return values.mean(0), t_factor(count, level) * values.std(0, ddof=1) / np.sqrt(count)


def mean_interval_of_known(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`mean_interval` over the values that are not NaN; each column must have at least one."""
    count = (~np.isnan(values)).sum(0)
    mean = np.nanmean(values, axis=0)
    several = np.maximum(count, 2)
    deviation = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / (several - 1))
    half = t_factor(several) * deviation / np.sqrt(several)
    return mean, np.where(count > 1, half, np.nan)


def crossed_interval(*samples: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Mean of a crossed design, and half of its interval.

    Every member of one sample meets every member of the others, such as networks and test functions. Half of the
    interval is the root of the summed squares of the halves (Student's t) that each sample has alone; a sample of
    one member adds nothing.

    Args:
        samples: for each sample the means [N] of its members over the other samples.
        level: confidence level of the interval.
    """
    halves = [mean_interval(sample, level)[1] for sample in samples if len(sample) > 1]
    return float(samples[0].mean()), float(np.linalg.norm(halves))


def bonferroni(comparisons: int, level: float = LEVEL) -> float:
    """Confidence level of each interval for which all of them hold together at `level`."""
    return 1 - (1 - level) / comparisons


def welch_interval(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Ends of Welch's interval of the mean of `a` minus that of `b`; both may be constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of constant samples
        low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    return float(low), float(high)


def welch_p(a: np.ndarray, b: np.ndarray) -> float:
    """p value of Welch's t test; of two constant samples 1 if they are equal and 0 if they differ."""
    if np.ptp(a) == np.ptp(b) == 0:
        return float(a[0] == b[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of one constant sample, which does no harm
        return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def standard_error(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Standard error of the mean along an axis."""
    return np.asarray(stats.sem(values, axis))


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean of the middle half of the values along an axis."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=axis))


RESAMPLES = 10_000
"""Bootstrap samples behind an interval."""


def bootstrap_interval(samples: Sequence[np.ndarray], statistic: Callable[..., Any]) -> tuple[float, float]:
    """Ends of the 95 % percentile interval; each sample is resampled on its own, always from the same seed.

    Args:
        samples: independent samples, each [N] with its own N.
        statistic: vectorised function of the samples and `axis`.
    """
    interval = stats.bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=500, vectorized=True, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)
