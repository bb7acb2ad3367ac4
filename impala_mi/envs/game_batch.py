"""The contract of engines that step many games at once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class BatchOutcome(NamedTuple):
    """Result of a step or reset of n games; the next call may reuse its arrays."""

    frame: np.ndarray
    """[n, *frame_shape] observations; where an episode ends the final ones, never those of the next episode."""
    reward: np.ndarray
    """[n] unscaled and unclipped; ignored after a reset."""
    terminated: np.ndarray
    """[n] bool."""
    truncated: np.ndarray
    """[n] bool, never together with `terminated`; the frame is the final observation."""
    instructions: Sequence[str] | None = None
    """n instructions, or None if they are those of the last reset."""


class GameBatch(Protocol):
    """N games of one level in one engine, which step together.

    A call begins work for chosen games, named by distinct indices below N, and `finish` waits for it; between the
    two the engine may work in threads of its own. Other games stay as they are. A game whose episode has ended is
    reset before it steps again. An exception but `TrainingError` and `UserError` loses the episodes of all N games;
    so does a result that is not what the suite says. The batch is closed then, and another one made. No method is
    called after `close`.
    """

    def begin_reset(self, games: np.ndarray, seeds: Sequence[int] | None) -> None:
        """Begin to start episodes of games [n].

        With n seeds, in [0, 2^31), each seed determines the episode of its game and those that follow in the same
        game; without seeds the next episodes follow. The first reset of a game has a seed.
        """
        ...

    def begin_step(self, games: np.ndarray, actions: Sequence[Any]) -> None:
        """Begin to act in games [n] with n actions, as `ActionSpace.env_actions` returns them."""
        ...

    def finish(self) -> BatchOutcome:
        """Wait for the step or reset that was begun; the result has its games in their order."""
        ...

    def close(self) -> None:
        """Free threads and memory; called once."""
        ...


MakeBatch = Callable[[str, int], GameBatch]
"""Function that makes the batch of a level, by its name, with a number of games."""
