"""Results of single runs of the study, and the gain of one arm over another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from impala_mi.analysis.stats import mean_interval

BASELINE = "shared"
"""Arm with which all others are compared."""
WITH_POPART = " + PopArt"
"""Suffix of the arms with PopArt, whose baseline is the arm without it."""
FINAL_WINDOWS = 4
"""Windows at the end of a run whose mean is its final score."""


@dataclass(frozen=True)
class Point:
    """Settings of the suite `interference`: a point of the map."""

    tasks: int
    contradiction: float
    reward_ratio: float = 1.0
    task_in_frame: bool = False

    def text(self, separator: str = ", ") -> str:
        """Description."""
        root = self.reward_ratio**0.5
        scales = "" if root == 1 else f"{separator}rewards {1 / root:g} to {root:g}"
        shown = f"{separator}task in frame" * self.task_in_frame
        return f"{self.tasks} tasks{separator}{self.contradiction:.0%} contradiction{scales}{shown}"


@dataclass(frozen=True)
class Run:
    """Result of one run."""

    arm: str
    point: Point
    seed: int
    frames: Sequence[int]
    """Env frames at the end of each window."""
    scores: Sequence[Sequence[float]]
    """Normalised score of each level in each window."""
    cosines: Sequence[Mapping[str, Sequence[float]]]
    """Gradients' cosines in each window, if measured: within a level and between levels, by part of the agent."""
    separation: Sequence[Mapping[str, Any]]
    """Separation of the tasks by kind of vector and octave of steps at the end, if measured."""
    head_parameters: int

    @classmethod
    def from_part(cls, arm: str, point: Point, seed: int, part: Mapping[str, Any]) -> "Run":
        """Run of a finished part."""
        fields = {key: part[key] for key in ("frames", "scores", "cosines", "head_parameters")}
        return cls(arm, point, seed, separation=part.get("separation", []), **fields)

    @property
    def curve(self) -> np.ndarray:
        """Mean score over levels in each window."""
        return np.asarray(self.scores).mean(1)

    @property
    def final(self) -> float:
        """Mean score over levels at the end."""
        return float(self.curve[-FINAL_WINDOWS:].mean())


@dataclass(frozen=True)
class Transfer:
    """Result of one agent that got a new task after its training."""

    arm: str
    point: Point
    """Settings of the first training; the new task is one more."""
    seed: int
    frames: Sequence[int]
    """Env frames since the new task came, over all tasks, at the end of each window."""
    new: Sequence[float]
    """Normalised score of the new task in each window."""
    old: Sequence[float]
    """Mean score of the other tasks in each window."""

    @property
    def final(self) -> float:
        """Score of the new task in the last window."""
        return self.new[-1]


@dataclass(frozen=True)
class Gain:
    """Final score of an arm minus that of the baseline with the same seed, which plays the same rules."""

    mean: float
    half: float
    """Half of Student's interval of the mean over seeds; those of one table hold together at 95 % (Bonferroni)."""
    improvement: float
    """Share of seeds in which the arm is better than the baseline (ties count half)."""

    @property
    def sign(self) -> int:
        """1 if the arm is better, -1 if it is worse, 0 if the interval holds 0."""
        return int(self.mean > self.half) - int(self.mean < -self.half)


def baseline_of(arm: str) -> str:
    """Arm with which an arm is compared: the same head without PopArt, or the shared head."""
    return arm.removesuffix(WITH_POPART) if arm.endswith(WITH_POPART) else BASELINE


def compare(scores: np.ndarray, baseline: np.ndarray, level: float) -> Gain:
    """Gain of scores [S] over a baseline's [S], of the same seeds, with an interval of that confidence level."""
    difference = scores - baseline
    mean, half = mean_interval(difference, level)
    improvement = (difference > 0).mean() + 0.5 * (difference == 0).mean()
    return Gain(float(mean), float(half), float(improvement))
