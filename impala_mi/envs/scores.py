"""Scores: returns relative to a random player and a reference."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from impala_mi.envs.base import Level

Number = TypeVar("Number", float, np.ndarray)


def family(level: str) -> str:
    """Prefix that the names of related levels share: "rooms" of "rooms_watermaze"."""
    return re.split(r"[_\-]", level.rpartition("/")[2])[0]


def normalised(level: Level, mean_return: Number) -> Number | None:
    """100 (mean - random) / (reference - random), or None if the level has no such scores."""
    if level.random_score is None or level.reference_score is None:
        return None
    return 100 * (mean_return - level.random_score) / (level.reference_score - level.random_score)


def has_references(levels: Sequence[Level]) -> bool:
    """Whether all levels have random and reference scores."""
    return all(level.random_score is not None and level.reference_score is not None for level in levels)


def capped_mean(levels: Sequence[Level], mean_returns: Mapping[str, float]) -> float | None:
    """Mean over levels of min(normalised, 100): averaged over episodes first, capped second, no floor.

    None until every level has a mean return, and for suites without reference scores.
    """
    scores = []
    for level in levels:
        score = normalised(level, mean_returns[level.name]) if level.name in mean_returns else None
        if score is None:
            return None
        scores.append(min(score, 100.0))
    return sum(scores) / len(scores)
