"""Metrics: their names and their aggregation over time.

A record has at least: time_s, env_frames, agent_steps, updates, fps, learner_fps, lag_mean, lag_max, loss/*,
level/<name>/return_mean (of levels whose episodes have ended), score/capped_mean (where the suite has references).
Of each level also frames_share, reset_s, lag, faults and what its games count (cache_hits, cache_misses). Of suites
that compile maps also levels/compiling: the levels with maps that have delivered no rollout since the start.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from impala_mi.envs.base import Level
from impala_mi.envs.scores import capped_mean, normalised
from impala_mi.types import Episode


class LevelScores:
    """Returns and lengths of each level's newest episodes."""

    def __init__(self, levels: Sequence[Level], window: int) -> None:
        self.levels = levels
        self.least = 1
        """Number of episodes of every level in the window that a score needs."""
        self._returns = [deque[float](maxlen=window) for _ in levels]
        self._lengths = [deque[int](maxlen=window) for _ in levels]
        self.episodes = [0] * len(levels)

    def add(self, episodes: Iterable[Episode]) -> None:
        """Count ended episodes."""
        for episode in episodes:
            self._returns[episode.level].append(episode.return_)
            self._lengths[episode.level].append(episode.length)
            self.episodes[episode.level] += 1

    def forget(self) -> None:
        """Empty the windows; the episodes to come are those of another agent."""
        for returns, lengths in zip(self._returns, self._lengths, strict=True):
            returns.clear()
            lengths.clear()

    def mean_returns(self, least: int = 1) -> dict[str, float]:
        """Mean return of each level with at least `least` episodes in the window."""
        return {
            level.name: sum(r) / len(r)
            for level, r in zip(self.levels, self._returns, strict=True)
            if len(r) >= least
        }

    def score(self) -> float | None:
        """Mean capped normalised score over the window; None if it is unknown or not a number."""
        score = capped_mean(self.levels, self.mean_returns(self.least))
        return score if score is not None and math.isfinite(score) else None

    def metrics(self) -> dict[str, float]:
        """Metrics of each level, and the mean capped score."""
        out: dict[str, float] = {}
        means = self.mean_returns()
        for level, lengths, count in zip(self.levels, self._lengths, self.episodes, strict=True):
            if level.name in means:
                out[f"level/{level.name}/return_mean"] = means[level.name]
                out[f"level/{level.name}/length_mean"] = sum(lengths) / len(lengths)
                score = normalised(level, means[level.name])
                if score is not None:
                    out[f"level/{level.name}/score"] = score
            out[f"level/{level.name}/episodes"] = count
        score = self.score()
        if score is not None:
            out["score/capped_mean"] = score
        return out

    def state(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {
            "returns": [list(r) for r in self._returns],
            "lengths": [list(n) for n in self._lengths],
            "episodes": list(self.episodes),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`."""
        for window, saved in zip(self._returns, state["returns"], strict=True):
            window.extend(saved)
        for lengths, saved in zip(self._lengths, state["lengths"], strict=True):
            lengths.extend(saved)
        self.episodes = list(state["episodes"])


class LevelCounts:
    """Sums over a whole run by level: frames that were learnt from, faults, and counts of the games."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self._names = [level.name for level in levels]
        self._counts: list[Counter[str]] = [Counter() for _ in levels]

    def add(self, level: int, counts: Mapping[str, int]) -> None:
        """Add to one level's counts."""
        self._counts[level].update(counts)

    def metrics(self) -> dict[str, float]:
        """Counts of each level, and its share of the frames."""
        frames = sum(counts["env_frames"] for counts in self._counts)
        out: dict[str, float] = {"actors/faults": sum(counts["faults"] for counts in self._counts)}
        for name, counts in zip(self._names, self._counts, strict=True):
            out |= {f"level/{name}/{key}": counts[key] for key in sorted({"faults", *counts})}
            if frames:
                out[f"level/{name}/frames_share"] = counts["env_frames"] / frames
        return out

    def state(self) -> list[dict[str, int]]:
        """State for a checkpoint."""
        return [dict(counts) for counts in self._counts]

    def load_state(self, state: Sequence[Mapping[str, int]]) -> None:
        """Continue from `state()`."""
        self._counts = [Counter(counts) for counts in state]


class Means:
    """Means, and maxima of keys that end in _max, of the values added since the last `take`."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, values: Mapping[str, float]) -> None:
        """Add one value to each key."""
        for key, value in values.items():
            if not math.isfinite(value):  # a skipped update, which is counted elsewhere
                continue
            self._values[key].append(value)

    def take(self) -> dict[str, float]:
        """Return the means and forget the values."""
        out = {
            key: max(values) if key.endswith("_max") else sum(values) / len(values)
            for key, values in self._values.items()
        }
        self._values.clear()
        return out
