"""Batches between actors and learner: rollouts go in one by one, batches of them come out."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from impala_mi.training.actor_slot import RolloutRef


class BatchSource(Protocol):
    """Store of rollouts between actors and learner, as the trainer's loop uses it."""

    def __len__(self) -> int:
        """Number of rollouts that wait to be learnt from."""

    def add(self, rollout: RolloutRef) -> bool:
        """Store a rollout; False if it was discarded because its weights belong to an earlier member."""

    def batch(self, version: int) -> list[RolloutRef] | None:
        """Rollouts for an update of the weights of `version`, or None if there are too few."""

    def restart(self, version: int) -> None:
        """Discard all rollouts, and from now on those of weights older than `version`."""

    def actors(self) -> list[int]:
        """Actor of each rollout that waits."""


class RolloutQueue:
    """Batch source of IMPALA: each rollout is learnt from once, in order of arrival.

    Args:
        size: rollouts in a batch.
        max_policy_lag: rollouts whose weights are older by more versions are discarded; None keeps all.
        discard: called with a number of rollouts that are discarded.
    """

    def __init__(self, size: int, max_policy_lag: int | None, discard: Callable[[int], None]) -> None:
        self._size, self._max_lag, self._discard = size, max_policy_lag, discard
        self._queue, self._min_version = deque[RolloutRef](), 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, rollout: RolloutRef) -> bool:
        """See `BatchSource.add`."""
        accepted = rollout.info.version >= self._min_version
        if accepted:
            self._queue.append(rollout)
        else:
            self._discard(1)
        return accepted

    def batch(self, version: int) -> list[RolloutRef] | None:
        """See `BatchSource.batch`."""
        if self._max_lag is not None:
            recent = deque(r for r in self._queue if version - r.info.version <= self._max_lag)
            self._discard(len(self._queue) - len(recent))
            self._queue = recent
        if len(self._queue) < self._size:
            return None
        return [self._queue.popleft() for _ in range(self._size)]

    def restart(self, version: int) -> None:
        """See `BatchSource.restart`."""
        self._discard(len(self._queue))
        self._queue.clear()
        self._min_version = version

    def actors(self) -> list[int]:
        """See `BatchSource.actors`."""
        return [rollout.info.actor for rollout in self._queue]
