"""Evaluation: complete episodes of every level, with intervals, against a random player and the reference."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from impala_mi.envs.base import Level
from impala_mi.envs.scores import capped_mean, normalised
from impala_mi.types import Episode

RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """Returns of a number of episodes."""

    episodes: int
    mean: float
    stderr: float
    low: float
    """Lower end of the 95 % bootstrap interval of the mean."""
    high: float
    length: float
    """Mean length in agent steps."""


def summarise(episodes: Sequence[Episode]) -> Summary:
    """Mean return with its standard error and interval; an interval without bounds for one episode."""
    returns = np.array([e.return_ for e in episodes])
    n, length = len(returns), float(np.mean([e.length for e in episodes]))
    if n == 1:
        return Summary(1, float(returns[0]), math.inf, -math.inf, math.inf, length)
    resampled = _bootstrap((returns,), lambda sample, axis: sample.mean(axis=axis))
    return Summary(n, float(returns.mean()), float(stats.sem(returns)), *resampled, length)


def _bootstrap(samples: Sequence[np.ndarray], statistic: Any) -> tuple[float, float]:
    """The 95 % percentile interval; each sample is drawn from for itself, always in the same way."""
    found = stats.bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=500, vectorized=True, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class LevelResult:
    """How an agent plays one level."""

    level: str
    agent: Summary
    random: Summary | None
    """A random player's, where it was asked to play."""
    random_score: float | None
    reference_score: float | None
    score: float | None
    """Normalised: 0 plays as a random player, 100 as the reference."""
    faults: int
    """Episodes that were lost to faults of the game, and replaced."""

    @property
    def capped(self) -> float | None:
        """The normalised score, at most 100."""
        return None if self.score is None else min(self.score, 100.0)

    @property
    def clearly_better(self) -> bool | None:
        """Whether the intervals of the agent and of the random player lie apart; None where it did not play."""
        return None if self.random is None else self.agent.low > self.random.high


@dataclass(frozen=True)
class Evaluation:
    """All levels."""

    levels: list[LevelResult]
    capped_mean: float | None
    """Averaged over episodes first, capped second, no floor."""
    capped_interval: tuple[float, float] | None
    """95 %, over the episodes that each level might have had; None with a level of one episode."""
    broken: dict[str, str]
    """Levels that did not work, and why; without them there is no mean."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            asdict(r) | {"capped": r.capped, "clearly_better_than_random": r.clearly_better} for r in self.levels
        ]
        for row in rows:
            for summary in filter(None, (row["agent"], row["random"])):  # JSON has no infinity: one episode
                summary.update({k: None for k in ("stderr", "low", "high") if not math.isfinite(summary[k])})
        means = {"capped_mean": self.capped_mean, "capped_interval": self.capped_interval}
        return {**means, "levels": rows, "broken": self.broken}


def evaluate(
    levels: Sequence[Level],
    agent: Sequence[Sequence[Episode]],
    random: Sequence[Sequence[Episode]] | None,
    faults: Counter[int] | None = None,
    broken: Mapping[int, str] | None = None,
) -> Evaluation:
    """Scores of the agent's episodes by level.

    By level index, `faults` counts the lost ones and `broken` says why a level did not work.
    """
    broken = broken or {}
    rows = []
    for k, level in enumerate(levels):
        if k in broken:
            continue
        summary = summarise(agent[k])
        rows.append(
            LevelResult(
                level.name,
                summary,
                None if random is None else summarise(random[k]),
                level.random_score,
                level.reference_score,
                normalised(level, summary.mean),
                0 if faults is None else faults[k],
            )
        )
    score = capped_mean(levels, {r.level: r.agent.mean for r in rows})
    interval = None
    if score is not None and all(len(episodes) > 1 for episodes in agent):
        interval = _capped_interval(levels, agent)
    return Evaluation(rows, score, interval, {levels[k].name: why for k, why in broken.items()})


def _capped_interval(levels: Sequence[Level], agent: Sequence[Sequence[Episode]]) -> tuple[float, float]:
    def capped(*samples: np.ndarray, axis: int) -> Any:
        scores = (normalised(level, s.mean(axis=axis)) for level, s in zip(levels, samples, strict=True))
        return np.mean([np.minimum(score, 100.0) for score in scores if score is not None], axis=0)

    return _bootstrap([np.array([e.return_ for e in episodes]) for episodes in agent], capped)


def draw_scores(evaluation: Evaluation, title: str, file: Path) -> None:
    """A bar a level: the normalised score with its interval, cut at -50 and 150; the line marks the reference."""
    rows = [row for row in reversed(evaluation.levels) if row.score is not None]
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        assert row.score is not None
        assert row.random_score is not None
        assert row.reference_score is not None
        per_point = 100 / (row.reference_score - row.random_score)
        low, high = (row.agent.low, row.agent.high) if row.agent.episodes > 1 else (row.agent.mean, row.agent.mean)
        errors = np.abs([[(row.agent.mean - low) * per_point], [(high - row.agent.mean) * per_point]])
        axes.barh(place, row.score, xerr=errors, color="tab:blue", ecolor="0.3", capsize=2)
        axes.annotate(
            str(round(row.score)), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8
        )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(100, color="black", linewidth=0.8, linestyle="--")
    axes.margins(y=0.01)
    axes.set(xlim=(-50, 150), yticks=range(len(rows)), xlabel="0: random player, 100: reference", title=title)
    axes.set_yticklabels([row.level for row in rows], fontsize=8)
    figure.savefig(file, dpi=150)
