"""Evaluation: complete episodes of every level, with intervals, against a random player and the reference."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from impala_mi.envs.base import Level
from impala_mi.envs.scores import capped_mean, normalised
from impala_mi.types import Episode


@dataclass(frozen=True)
class Summary:
    """Returns of a number of episodes."""

    episodes: int
    mean: float
    stderr: float
    low: float
    """Lower end of the 95 % interval of the mean (Student's t)."""
    high: float
    length: float
    """Mean length in agent steps."""


def summarise(episodes: Sequence[Episode]) -> Summary:
    """Mean return with its standard error and 95 % interval; an interval without bounds for one episode."""
    returns = np.array([e.return_ for e in episodes])
    n, mean = len(returns), float(returns.mean())
    stderr = float(returns.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    half = float(stats.t.ppf(0.975, n - 1)) * stderr if n > 1 else math.inf
    return Summary(n, mean, stderr, mean - half, mean + half, float(np.mean([e.length for e in episodes])))


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

    @property
    def clearly_better(self) -> bool | None:
        """Whether the intervals of the agent and of the random player lie apart; None where it did not play."""
        return None if self.random is None else self.agent.low > self.random.high


@dataclass(frozen=True)
class Evaluation:
    """All levels."""

    levels: list[LevelResult]
    capped_mean: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [asdict(r) | {"clearly_better_than_random": r.clearly_better} for r in self.levels]
        for row in rows:
            for summary in filter(None, (row["agent"], row["random"])):  # JSON has no infinity: one episode
                summary.update({k: None for k in ("stderr", "low", "high") if not math.isfinite(summary[k])})
        return {"capped_mean": self.capped_mean, "levels": rows}


def evaluate(
    levels: Sequence[Level], agent: Sequence[Sequence[Episode]], random: Sequence[Sequence[Episode]] | None
) -> Evaluation:
    """Scores of the agent's episodes by level."""
    rows = []
    for k, level in enumerate(levels):
        summary = summarise(agent[k])
        against = None if random is None else summarise(random[k])
        rows.append(
            LevelResult(
                level.name,
                summary,
                against,
                level.random_score,
                level.reference_score,
                normalised(level, summary.mean),
            )
        )
    return Evaluation(rows, capped_mean(levels, {r.level: r.agent.mean for r in rows}))
