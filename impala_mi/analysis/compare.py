"""Several runs beside each other: groups that differ in their seed alone, curves and aggregates with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from impala_mi.config import MACHINE_KEYS
from impala_mi.runs.history import History, Record

POINTS = 200
"""Of a curve."""
_SAME = (
    "seed", "run.", "train.max_time_s", "train.log_every_s", "train.checkpoint_every_s", "train.keep_checkpoints",
    *(f"env.dmlab.{key}" for key in MACHINE_KEYS),
)  # fmt: skip
"""Keys in which runs of one group may differ: none changes what is learnt from a frame."""
WORDS = 3
"""Settings in the name of a group, or more where so few do not tell groups apart."""


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
    for count in range(WORDS, max(WORDS, len(keys)) + 1):
        names = [_name(some[0], _first(keys)[:count]) for some in sets]
        if len(set(names)) == len(names):
            break
    return [
        Group(name if names.count(name) == 1 else f"{name} ({number})", some)
        for number, (name, some) in enumerate(zip(names, sets, strict=True), 1)
    ]


def _name(run: History, keys: Sequence[str]) -> str:
    if not run.settings:
        return f"{run.name} (settings unknown)"
    return ", ".join(f"{key.rpartition('.')[2]}={shown(run.settings.get(key, '-'))}" for key in keys) or run.name


def same_seed(group: Group) -> list[tuple[str, ...]]:
    """Names of runs of a group that share a seed: copies, or continued elsewhere, and no independent samples."""
    by_seed: dict[object, list[str]] = {}
    for run in group.runs:
        if run.settings:
            by_seed.setdefault(run.settings.get("seed"), []).append(run.name)
    return [tuple(names) for names in by_seed.values() if len(names) > 1]


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


def scores(runs: Sequence[History]) -> tuple[str, dict[str, dict[str, float]]]:
    """Where the normalised scores of a report come from, and by a run's path those of its levels.

    The newest evaluations, if every run has one of the same variant in which it was told its tasks; else all are of
    the last episodes in training, so that no two kinds are compared.
    """
    newest = [next((e for e in run.evaluations if _comparable(e)), None) for run in runs]
    if all(newest) and len({e.get("variant") for e in newest if e}) == 1:
        return "evaluations", {run.path: _of(e) for run, e in zip(runs, newest, strict=True) if e}
    return "training", {run.path: found for run in runs if (found := _in_training(run))}


def _comparable(evaluation: Record) -> bool:
    """Whether an evaluation has scores of sampled actions of an agent that was told its tasks."""
    return evaluation.get("task_ids", True) and not evaluation.get("greedy") and bool(_of(evaluation))


def _of(evaluation: Record) -> dict[str, float]:
    return {r["level"]: r["score"] for r in evaluation.get("levels", []) if r.get("score") is not None}


def _in_training(run: History) -> dict[str, float]:
    rows = {level: run.last.get(f"level/{level}/score") for level in run.levels}
    return {level: score for level, score in rows.items() if score is not None}


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half."""
    return float(stats.trim_mean(values, 0.25))


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half of the 95 % interval (Student's t) over axis 0; NaN for one."""
    count = len(values)
    half = (
        stats.t.ppf(0.975, count - 1) * values.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.nan * values[0]
    )
    return values.mean(0), half


STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {
    "interquartile mean": interquartile_mean,
    "median": np.median,
    "mean": np.mean,
    "mean capped": lambda x: np.mean(np.minimum(x, 100.0)),
}


def common_levels(known: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Levels that all runs have scores of."""
    rows = list(known.values())
    return [level for level in (rows[0] if rows else ()) if all(level in row for row in rows)]


def aggregate(rows: np.ndarray) -> dict[str, Aggregate]:
    """Statistics over levels, averaged over the runs of a group: scores [R, L].

    A run plays all levels, so their scores share its luck: the interval is Student's over runs, and levels are not
    drawn apart from each other as Agarwal et al. 2021 do with runs of single levels.
    """
    found = {}
    for name, statistic in STATISTICS.items():
        mean, half = map(float, interval(np.array([float(statistic(row)) for row in rows])))
        found[name] = Aggregate(mean, (mean - half, mean + half) if len(rows) > 1 else None)
    return found
