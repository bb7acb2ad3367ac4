"""Rules of observations and rewards: the suite's shape and dtype, finite numbers, and a game's own bounds."""

from collections.abc import Sequence

import numpy as np

from impala_mi.types import Spaces

MAX_REWARD = 3e38
"""Rewards that are not below it are infinite in float32."""


RANGE_SLACK = 1e-4
"""Share of a bound (of 1 for smaller ones) by which numbers in float32 may exceed it: rounding."""


class Breach(ValueError):
    """A game of a batch broke a rule.

    Args:
        game: place of the game in the result.
        message: description of the observation or reward.
    """

    def __init__(self, game: int, message: str) -> None:
        super().__init__(message)
        self.game = game


class OutcomeChecks:
    """Checks of the observations and rewards of a level.

    Args:
        level: name of the level, for messages.
        spaces: spaces of the suite; None accepts all.
    """

    def __init__(self, level: str, spaces: Spaces | None = None) -> None:
        self.level = level
        self._shape = None if spaces is None else tuple(spaces.frame_shape)
        self._dtype = None if spaces is None else np.dtype(spaces.frame_dtype)
        self._floats = spaces is not None and spaces.frame_dtype == "float32"
        self._numbers = self._floats and spaces is not None and len(spaces.frame_shape) == 1

    def check(self, frame: np.ndarray) -> None:
        """Raise `ValueError` that names what a game showed and what the suite says; costs about a microsecond."""
        if self._shape is None:
            return
        if frame.shape != self._shape or frame.dtype != self._dtype:
            raise ValueError(
                f"an observation of shape {list(frame.shape)} and dtype {frame.dtype}; the suite has "
                f"{list(self._shape)} {self._dtype}"
            )
        # A sum of squares is cheaper than a test of every number; it may be infinite for large ones.
        if self._numbers and not frame.dot(frame) < MAX_REWARD:
            odd = frame[~np.isfinite(frame)]
            if len(odd):
                raise ValueError(f"an observation with {odd[0]}, which is not finite")

    def check_reward(self, reward: float) -> None:
        """Raise `ValueError` or `TypeError` unless a reward is a number that is finite in float32."""
        if not -MAX_REWARD < reward < MAX_REWARD:
            raise ValueError(f"a reward of {reward}, which is not finite in float32")

    def check_batch(self, frame: np.ndarray, instructions: Sequence[str] | None, n: int) -> None:
        """Raise `ValueError`, or `Breach` for a single game, unless frames [n, *frame_shape] are allowed."""
        assert self._shape is not None
        if frame.shape != (n, *self._shape) or frame.dtype != self._dtype:
            raise ValueError(
                f"observations of shape {list(frame.shape)} and dtype {frame.dtype}; {n} games have "
                f"{[n, *self._shape]} {self._dtype}"
            )
        if instructions is not None and len(instructions) != n:
            raise ValueError(f"{len(instructions)} instructions of {n} games")
        if self._floats and not (finite := np.isfinite(frame)).all():
            game = int(np.argwhere(~finite)[0, 0])
            raise Breach(game, f"an observation with {frame[game][~finite[game]][0]}, which is not finite")

    def check_batch_step(self, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, n: int) -> None:
        """Raise `ValueError`, or `Breach` for a single game, unless a step's arrays [n] are allowed."""
        for name, array in (("rewards", reward), ("terminated", terminated), ("truncated", truncated)):
            if array.shape != (n,) or (name != "rewards" and array.dtype != np.bool_):
                raise ValueError(f"{name} of shape {list(array.shape)} and dtype {array.dtype}, of {n} games")
        if not (allowed := np.abs(reward) < MAX_REWARD).all():
            game = int(np.flatnonzero(~allowed)[0])
            raise Breach(game, f"a reward of {reward[game]}, which is not finite in float32")


class FrameBounds:
    """Check of the numbers of frames against the bounds of a game.

    Args:
        low: smallest numbers [*frame_shape], -inf where there are none.
        high: largest numbers [*frame_shape], inf where there are none.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self._low, self._high = low, high
        self._least, self._most = low, high
        if low.dtype.kind == "f":
            with np.errstate(over="ignore"):
                self._least, self._most = low - _slack(low), high + _slack(high)

    def check(self, frame: np.ndarray) -> None:
        """Raise `ValueError` that names a number outside its bounds; NaN is left to `OutcomeChecks`."""
        outside = (frame < self._least) | (frame > self._most)
        if outside.any():
            place = tuple(np.argwhere(outside)[0].tolist())
            raise ValueError(
                f"an observation with {frame[place]} at {list(place)}, where the environment's space has "
                f"{self._low[place]} to {self._high[place]}; {np.count_nonzero(outside)} of {frame.size} numbers "
                "are outside (a wrapper can clip them or widen the space)"
            )


def _slack(bound: np.ndarray) -> np.ndarray:
    return RANGE_SLACK * np.maximum(np.abs(np.where(np.isfinite(bound), bound, 0)), 1).astype(bound.dtype)
