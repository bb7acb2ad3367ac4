"""Pipeline of a learner rank: it stages batches, begins updates and finishes them, in a thread for each stage.

While one batch is staged, the update of the batch before it may be computed, and the result of an earlier one
copied to the host. All state that the threads share lies in `UpdatePipeline`, behind one lock. Invariant while the
lock is free:

- `_staged` holds the batches whose updates have not begun; all have larger numbers than the newest begun update.
- `_in_flight` holds the updates that have begun and are not finished, oldest first. `_beginning` is true while one
  more update is being queued on the device or, on a CPU, computed.
- The weights have version `counters.version + len(_in_flight)`, unless an update in flight turns out to be skipped.
- `_error` is None until an update fails. From then on no update begins. If the failure leaves the weights unknown
  (`_weights_lost`), no update finishes and no state is returned: every waiting and every later call raises it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from impala_mi.config import LearnerConfig
from impala_mi.learner.transfer import DeviceBatch, HostCopy
from impala_mi.learner.update import Counters, Learner, PendingUpdate
from impala_mi.types import Transitions

_STATS = "stats"
"""Key of the update's scalars among the weights that are copied to the host."""


@dataclass(frozen=True)
class UpdateResult:
    """Result of an update, as the driver gets it."""

    counters: Counters
    metrics: dict[str, float]
    published: bool
    """Whether there are new weights; a skipped update has none."""


@dataclass(frozen=True)
class StagedBatch:
    """`DeviceBatch` that waits for its update, with the versions of the weights that acted."""

    batch: DeviceBatch
    versions: list[int]
    """Versions of the weights that acted, one for each rollout."""
    seconds: float


@dataclass(frozen=True)
class _InFlight:
    """Update that has begun and is not finished."""

    number: int
    pending: PendingUpdate
    copy: HostCopy
    """Scalars and new weights on their way to the host."""
    began_at: float
    metrics: dict[str, float]


class UpdatePipeline:
    """Staged batches, updates in flight and the learner's version; all methods may be called from any thread.

    Args:
        learner: learner of this rank.
        stage: starts the copy of a batch to the device.
    """

    def __init__(self, learner: Learner, stage: Callable[[Sequence[Transitions]], DeviceBatch]) -> None:
        self._learner, self._stage = learner, stage
        self._changed = threading.Condition()
        self._staged = dict[int, StagedBatch]()
        self._in_flight = deque[_InFlight]()
        self._beginning = False
        self._newest = 0  # number of the newest update that has begun or failed to
        self._error: BaseException | None = None
        self._weights_lost = False
        self._finished_at, self._cpu_s = 0.0, time.process_time()

    def stage(self, number: int, versions: list[int], rollouts: Sequence[Transitions]) -> None:
        """Start the copy of batch `number` to the device; a failure leaves the pipeline as it was."""
        start = time.perf_counter()
        batch = StagedBatch(self._stage(rollouts), versions, time.perf_counter() - start)
        with self._changed:
            self._staged[number] = batch

    def begin(self, number: int) -> int:
        """Queue the update of a staged batch on the device and return its number.

        Older staged batches are dropped: other ranks have lost their parts of them. Raises what the update raises,
        or the error of an earlier update.
        """
        began_at = time.perf_counter()
        with self._changed:
            self._wait_for(lambda: not self._beginning)
            if self._error is not None:
                raise self._error
            self._newest = max(self._newest, number)
            with self._failing():
                staged = self._staged.pop(number)
            self._staged = {n: batch for n, batch in self._staged.items() if n > number}
            version, self._beginning = self._version(), True
        try:
            with self._failing():
                pending = self._learner.begin(staged.batch.take())
            with self._failing(weights_lost=True):
                copy = HostCopy({_STATS: pending.stats.values} | self._learner.agent.state_dict())
        finally:
            with self._changed:
                self._beginning = False
                if self._error is None:
                    lags = [version - v for v in staged.versions]
                    metrics = {
                        "lag_mean": float(np.mean(lags)),
                        "lag_max": float(max(lags)),
                        "time/stack_s": staged.seconds,
                    }
                    self._in_flight.append(_InFlight(number, pending, copy, began_at, metrics))
                self._changed.notify_all()
        return number

    def finish(self, number: int) -> tuple[UpdateResult, dict[str, torch.Tensor]]:
        """Wait for update `number` and count it; returns its result and the weights after it, in host memory.

        Updates finish in the order in which they began. Raises what the update raises or the error of an earlier
        one, and `LookupError` if the update was finished before or its batch was dropped.
        """
        with self._changed:
            self._wait_for(lambda: self._oldest() == number or self._missing(number))
            if self._oldest() != number:
                raise self._error or LookupError(f"update {number} is not in flight")
            update = self._in_flight[0]
        with self._failing(weights_lost=True):
            weights = update.copy.wait()
            stats = update.pending.stats._replace(values=weights.pop(_STATS))
            with self._changed:
                version = self._learner.counters.version
                metrics = self._learner.finish(replace(update.pending, stats=stats)) | update.metrics
                self._in_flight.popleft()
                now, cpu_s = time.perf_counter(), time.process_time()
                metrics["time/update_s"] = now - max(update.began_at, self._finished_at)
                metrics["time/learner_cpu_s"] = cpu_s - self._cpu_s
                self._finished_at, self._cpu_s = now, cpu_s
                counters = replace(self._learner.counters)
                self._changed.notify_all()
        return UpdateResult(counters, metrics, counters.version != version), weights

    def state(self) -> dict[str, Any]:
        """The learner's state after all updates that have begun; waits for them, and raises their error.

        An update that failed before it changed the weights leaves the state after the update before it.
        """
        with self._changed:
            self._wait_for(self._idle)
            return self._learner.state()

    def load_member(self, state: dict[str, Any], hyperparameters: LearnerConfig) -> None:
        """Continue from another state with other hyperparameters; staged batches are dropped.

        Raises `RuntimeError` if an update is in flight, and the error of an earlier update.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            if not self._idle():
                raise RuntimeError("the learner cannot load another state while an update is in flight")
            self._learner.set_hyperparameters(hyperparameters)
            self._learner.load_state(state)
            self._staged.clear()

    def _version(self) -> int:
        return self._learner.counters.version + len(self._in_flight)

    def _oldest(self) -> int | None:
        return self._in_flight[0].number if self._in_flight else None

    def _missing(self, number: int) -> bool:
        """Whether update `number` is not in flight and never will be."""
        past = not self._beginning and (number <= self._newest or self._error is not None)
        return past and all(update.number != number for update in self._in_flight)

    def _idle(self) -> bool:
        return not self._in_flight and not self._beginning

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait, holding the lock, until a condition is met; raises the error that lost the weights."""
        self._changed.wait_for(lambda: self._weights_lost or condition())
        if self._weights_lost:
            assert self._error is not None
            raise self._error

    @contextmanager
    def _failing(self, weights_lost: bool = False) -> Iterator[None]:
        """Keep an error of an update for the other threads and wake them."""
        try:
            yield
        except BaseException as e:
            with self._changed:
                self._error = self._error or e
                self._weights_lost = self._weights_lost or weights_lost
                self._changed.notify_all()
            raise
