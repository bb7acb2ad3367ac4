"""Rules of observations and rewards: the suite's shape and dtype, and finite numbers."""

from collections.abc import Sequence

import numpy as np

from impala_mi.types import Spaces

MAX_REWARD = 3e38
"""Rewards that are not below it are infinite in float32."""


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
