"""Comparison of runs: groups that differ in their seed alone, curves and aggregates with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from impala_mi.analysis.stats import interquartile_mean, mean_interval, mean_interval_of_known
from impala_mi.config_suites import MACHINE_KEYS
from impala_mi.runs.history import History
from impala_mi.runs.log_lines import Record

POINTS = 200
"""Largest number of points of a curve."""
_IGNORED = (
    "seed", "run.", "logging.",
    "train.max_time_s", "train.log_every_s", "train.checkpoint_every_s", "train.keep_checkpoints",
    *(f"env.dmlab.{key}" for key in MACHINE_KEYS),
)  # fmt: skip
"""Settings in which runs of one group may differ: none changes what is learnt from a frame."""
NAME_SETTINGS = 3
"""Settings in the name of a group; names have more if these do not distinguish the groups."""


@dataclass(frozen=True)
class RunGroup:
    """Runs with the same settings but for their seeds."""

    name: str
    runs: list[History]


@dataclass(frozen=True)
class Curve:
    """A metric over env frames, averaged over runs."""

    frames: np.ndarray
    """Env frames [P]."""
    mean: np.ndarray
    """Mean [P] over the runs that got so far."""
    low: np.ndarray | None
    """Lower ends [P] of the 95 % interval of the mean over runs (Student's t); None for a single run."""
    high: np.ndarray | None


@dataclass(frozen=True)
class Aggregate:
    """A statistic of scores with its 95 % interval, which is None for a single run."""

    value: float
    interval: tuple[float, float] | None


def group_runs(runs: Sequence[History]) -> list[RunGroup]:
    """Group runs in order of appearance, and name groups after the settings in which they differ."""
    by_settings: dict[str, list[History]] = {}
    for run in runs:
        by_settings.setdefault(repr(sorted(_own(run).items(), key=lambda kv: kv[0])), []).append(run)
    groups = list(by_settings.values())
    keys = differing([group[0] for group in groups])
    for count in range(NAME_SETTINGS, max(NAME_SETTINGS, len(keys)) + 1):
        names = [_name(group[0], _head_first(keys)[:count]) for group in groups]
        if len(set(names)) == len(names):
            break
    return [
        RunGroup(name if names.count(name) == 1 else f"{name} ({number})", group)
        for number, (name, group) in enumerate(zip(names, groups, strict=True), 1)
    ]


def _name(run: History, keys: Sequence[str]) -> str:
    if not run.settings:
        return f"{run.name} (settings unknown)"
    settings = (f"{key.rpartition('.')[2]}={format_setting(run.settings.get(key, '-'))}" for key in keys)
    return ", ".join(settings) or run.name


def same_seed(group: RunGroup) -> list[tuple[str, ...]]:
    """Names of a group's runs that share a seed: copies or continuations, so no independent samples."""
    by_seed: dict[object, list[str]] = {}
    for run in group.runs:
        if run.settings:
            by_seed.setdefault(run.settings.get("seed"), []).append(run.name)
    return [tuple(names) for names in by_seed.values() if len(names) > 1]


def format_setting(value: Any) -> str:
    """Text of a setting, floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _own(run: History) -> dict[str, Any]:
    return {k: v for k, v in run.settings.items() if not k.startswith(_IGNORED)} if run.settings else {"": run.path}


def _head_first(keys: Sequence[str]) -> list[str]:
    """Keys in the order of names: the head, other settings of the agent, of the learner, the rest."""
    order = ("agent.head", "agent.", "learner.", "")
    return sorted(keys, key=lambda key: next(i for i, start in enumerate(order) if key.startswith(start)))


def differing(runs: Sequence[History]) -> list[str]:
    """Dotted keys in which the settings of runs differ, without seeds and names."""
    known = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in known for key in _own(run))
    return [key for key in keys if len({repr(run.settings.get(key)) for run in known}) > 1]


def curve(runs: Sequence[History], key: str) -> Curve | None:
    """Curve of a metric of a group's runs on common frames; None if no run has the metric."""
    series = [(x, y) for x, y in (run.series(key) for run in runs) if len(x) > 1]
    if not series:
        return None
    start, end = min(x[0] for x, _ in series), max(x[-1] for x, _ in series)
    frames = np.linspace(start, end, min(POINTS, max(len(x) for x, _ in series)))
    rows = np.stack([_interpolated(frames, np.array(x), np.array(y)) for x, y in series])
    known = ~np.isnan(rows).all(0)
    mean, half = mean_interval_of_known(rows[:, known])
    if len(rows) == 1:
        return Curve(frames[known], mean, None, None)
    return Curve(frames[known], mean, mean - half, mean + half)


def _interpolated(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, first = np.unique(x, return_index=True)  # a run that was set back has some frames twice
    return np.interp(at, x, y[first], left=np.nan, right=np.nan)


def scores(runs: Sequence[History]) -> tuple[str, dict[str, dict[str, float]]]:
    """Normalised scores of the levels by a run's path, and their source: "evaluations" or "training".

    The source is the newest evaluations if every run has one of the same variant in which the agent knew its tasks.
    Otherwise it is the last training episodes of all runs, so that scores of one kind are compared.
    """
    newest = [next((e for e in run.evaluations if _comparable(e)), None) for run in runs]
    if all(newest) and len({e.get("variant") for e in newest if e}) == 1:
        return "evaluations", {run.path: _evaluated(e) for run, e in zip(runs, newest, strict=True) if e}
    return "training", {run.path: levels for run in runs if (levels := _in_training(run))}


def _comparable(evaluation: Record) -> bool:
    """Whether scores are of sampled actions of an agent that knew its tasks, and no limit changed them."""
    odd = not evaluation.get("task_ids", True) or evaluation.get("greedy") or evaluation.get("limited")
    return not odd and bool(_evaluated(evaluation))


def _evaluated(evaluation: Record) -> dict[str, float]:
    return {r["level"]: r["score"] for r in evaluation.get("levels", []) if r.get("score") is not None}


def _in_training(run: History) -> dict[str, float]:
    rows = {level: run.last.get(f"level/{level}/score") for level in run.levels}
    return {level: score for level, score in rows.items() if score is not None}


STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {
    "interquartile mean": interquartile_mean,
    "median": np.median,
    "mean": np.mean,
    "mean capped": lambda x: np.mean(np.minimum(x, 100.0)),
}
"""Statistics over the levels' scores of one run."""


def common_levels(known: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Levels for which all runs have scores."""
    rows = list(known.values())
    return [level for level in (rows[0] if rows else ()) if all(level in row for row in rows)]


def aggregate(rows: np.ndarray) -> dict[str, Aggregate]:
    """Statistics over levels, averaged over the runs of a group, for scores [R, L].

    The interval is Student's over runs. A run plays all levels, so their scores share its luck; levels are not
    resampled on their own as in Agarwal et al. 2021, where each run has a single level.
    """
    aggregates = {}
    for name, statistic in STATISTICS.items():
        mean, half = map(float, mean_interval(np.array([float(statistic(row)) for row in rows])))
        aggregates[name] = Aggregate(mean, (mean - half, mean + half) if len(rows) > 1 else None)
    return aggregates
