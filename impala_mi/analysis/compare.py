"""Several runs beside each other: groups that differ in their seed alone, curves and aggregates with intervals.

Aggregates are those of Agarwal et al. 2021 ("Deep RL at the edge of the statistical precipice"): over all levels
and runs of a group, with intervals from a bootstrap that draws runs within each level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from impala_mi.analysis.history import History

POINTS = 200
"""Of a curve."""
RESAMPLES = 5000
_SAME = ("seed", "run.", "cluster.")
"""Keys in which runs of one group may differ."""


@dataclass(frozen=True)
class Group:
    """Runs with the same settings but for their seeds."""

    name: str
    runs: list[History]


@dataclass(frozen=True)
class Curve:
    """A metric over env frames."""

    frames: np.ndarray
    """[P]."""
    mean: np.ndarray
    """[P] over the runs that have come so far."""
    low: np.ndarray | None
    """[P] lower end of the 95 % interval of the mean over runs (Student's t); None of one run."""
    high: np.ndarray | None


@dataclass(frozen=True)
class Aggregate:
    """A statistic of scores with its 95 % interval; None where there is a single run."""

    value: float
    interval: tuple[float, float] | None


def groups(runs: Sequence[History]) -> list[Group]:
    """In the order in which they come; named after the settings in which they differ."""
    found: dict[str, list[History]] = {}
    for run in runs:
        found.setdefault(repr(sorted(_own(run).items(), key=lambda kv: kv[0])), []).append(run)
    sets = list(found.values())
    keys = differing([some[0] for some in sets])
    named: list[Group] = []
    for number, some in enumerate(sets):
        words = [f"{k.rpartition('.')[2]}={shown(some[0].settings.get(k, '-'))}" for k in _first(keys)[:3]]
        name = ", ".join(words) or some[0].name
        if not some[0].settings:
            name = f"{some[0].name} (settings unknown)"
        if any(name == other.name for other in named):
            name += f" ({number + 1})"
        named.append(Group(name, some))
    return named


def shown(value: Any) -> str:
    """A setting, in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _own(run: History) -> dict[str, Any]:
    return {k: v for k, v in run.settings.items() if not k.startswith(_SAME)} if run.settings else {"": run.path}


def _first(keys: Sequence[str]) -> list[str]:
    """The head first, then what else the agent and the learner differ in."""
    order = ("agent.head", "agent.", "learner.", "")
    return sorted(keys, key=lambda key: next(i for i, start in enumerate(order) if key.startswith(start)))


def differing(runs: Sequence[History]) -> list[str]:
    """Dotted keys in which the settings of runs differ, but for seeds and names."""
    known = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in known for key in _own(run))
    return [key for key in keys if len({repr(run.settings.get(key)) for run in known}) > 1]


def curve(runs: Sequence[History], key: str) -> Curve | None:
    """Of a group's runs, on common frames; None where none has the metric."""
    series = [(x, y) for x, y in (run.series(key) for run in runs) if len(x) > 1]
    if not series:
        return None
    start, end = min(x[0] for x, _ in series), max(x[-1] for x, _ in series)
    frames = np.linspace(start, end, min(POINTS, max(len(x) for x, _ in series)))
    rows = np.stack([_interpolated(frames, np.array(x), np.array(y)) for x, y in series])
    count = (~np.isnan(rows)).sum(0)
    kept = count > 0
    frames, rows, count = frames[kept], rows[:, kept], count[kept]
    mean = np.nanmean(rows, axis=0)
    if len(rows) == 1:
        return Curve(frames, mean, None, None)
    several = np.maximum(count, 2)
    deviation = np.sqrt(np.nansum((rows - mean) ** 2, axis=0) / (several - 1))
    half = stats.t.ppf(0.975, several - 1) * deviation / np.sqrt(several)
    half = np.where(count > 1, half, np.nan)
    return Curve(frames, mean, mean - half, mean + half)


def _interpolated(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, first = np.unique(x, return_index=True)  # a run that went back has some frames twice
    return np.interp(at, x, y[first], left=np.nan, right=np.nan)


def scores(run: History) -> dict[str, float]:
    """Normalised score of each level: of the newest evaluation where there is one, else of the last episodes."""
    for evaluation in run.evaluations:
        rows = {r["level"]: r["score"] for r in evaluation.get("levels", []) if r.get("score") is not None}
        if rows:
            return rows
    return {k.split("/")[1]: v for k, v in run.last.items() if k.startswith("level/") and k.endswith("/score")}


def interquartile_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the middle half."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=axis))


STATISTICS: dict[str, Callable[..., Any]] = {
    "interquartile mean": interquartile_mean,
    "median": np.median,
    "mean": np.mean,
    "mean capped": lambda x, axis=None: np.mean(np.minimum(x, 100.0), axis=axis),
}


def aggregate(group: Group) -> dict[str, Aggregate]:
    """Over the levels that all runs of a group have scores of; {} without such."""
    rows = [found for run in group.runs if (found := scores(run))]
    levels = [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]
    if not levels:
        return {}
    samples = [np.array([row[name] for row in rows]) for name in levels]
    return {
        name: Aggregate(float(statistic(np.concatenate(samples))), _interval(samples, statistic))
        for name, statistic in STATISTICS.items()
    }


def _interval(samples: Sequence[np.ndarray], statistic: Callable[..., Any]) -> tuple[float, float] | None:
    """Percentile interval; the runs of each level are drawn for themselves."""
    if len(samples[0]) < 2:
        return None

    def whole(*drawn: np.ndarray, axis: int) -> Any:
        return statistic(np.concatenate(drawn, axis=axis), axis=axis)

    found = stats.bootstrap(
        samples, whole, n_resamples=RESAMPLES, batch=500, vectorized=True, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)
