"""Supervision of the learner: its start, updates in flight, a rescue copy of its state, and its replacement.

Invariant: `counters` and `weights` are those of the last result that was consumed. A learner that dies is replaced
by one that starts from `committed` or, if that is None, from the newest state that a living rank or the driver
holds; its updates in flight are lost.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from impala_mi.config import Config, LearnerConfig
from impala_mi.errors import TrainingError
from impala_mi.host.port import Port
from impala_mi.learner.group import LearnerDied, LearnerGroup, RankProcess, RolloutsLost, Update
from impala_mi.learner.pipeline import UpdateResult
from impala_mi.learner.update import Counters
from impala_mi.training.actor_slot import RolloutRef
from impala_mi.training.restart_budget import ReportEvent, RestartBudget, reason_of
from impala_mi.types import RolloutInfo, RolloutPreview, Weights

MakeRanks = Callable[[Config, PlacementGroup], Sequence[RankProcess]]
COPY_EVERY_S = 10.0
"""Seconds between rescue copies of the learner's state."""
RESCUE_S = 10.0
"""Timeout in seconds when asking surviving ranks for their newer state."""


@dataclass(frozen=True)
class FinishedUpdate:
    """An update whose result was consumed."""

    infos: list[RolloutInfo]
    """Rollouts of its batch."""
    lags: list[int]
    """Versions between the weights that played each rollout and those that learnt from it."""
    metrics: dict[str, float]


class LearnerSupervisor:
    """Keeps a learner alive; see the module's docstring.

    Args:
        config: the run's configuration.
        state: learner state to start from, or None.
        placement: resources of the ranks.
        make_ranks: creates the processes of all ranks.
        port: calls to remote processes, and the clock.
        event: called with the kind and the details of deaths and restarts.
        publish: called with new weights and their version.
        save: saves a state when no learner is left that could be asked for its state.
        meanwhile: called again and again while a replacement starts; what it raises ends the replacement.
    """

    def __init__(
        self,
        config: Config,
        state: dict[str, Any] | None,
        placement: PlacementGroup,
        make_ranks: MakeRanks,
        port: Port,
        event: ReportEvent,
        publish: Callable[["ray.ObjectRef[Weights]", int], None],
        save: Callable[[dict[str, Any]], Any],
        meanwhile: Callable[[], None],
    ) -> None:
        self._config, self._placement, self._make_ranks, self._port = config, placement, make_ranks, port
        self._event, self._publish, self._save, self._meanwhile = event, publish, save, meanwhile
        self.counters = Counters() if state is None else Counters(**state["counters"])
        self.weights: ray.ObjectRef[Weights] | None = None
        self.rescue_copy = state
        """Newest learner state that the driver holds in memory."""
        self.committed: dict[str, Any] | None = None
        """State of a member that is being loaded: only this one may be continued from, until `confirm`."""
        self._copy: ray.ObjectRef[dict[str, Any]] | None = None
        """Rescue copy that was asked for and has not arrived."""
        self._copied_at = port.now()
        self._in_flight: deque[tuple[Update, list[RolloutInfo]]] = deque()
        self._budget = RestartBudget(config.learner.max_restarts, "learner.max_restarts", port.now)
        self._learner = self._make(state)

    def _make(self, state: dict[str, Any] | None) -> LearnerGroup:
        return LearnerGroup(self._config, state, self._make_ranks(self._config, self._placement), self._port)

    @property
    def restarts(self) -> int:
        """Deaths of the learner so far."""
        return self._budget.total

    @property
    def last_known(self) -> dict[str, Any] | None:
        """State to continue from if the learner does not answer; None before the first state of a new run."""
        return self.rescue_copy if self.committed is None else self.committed

    def start(self) -> None:
        """Wait until the learner has started; one that dies meanwhile is replaced."""
        try:
            self._wait_for_start(lambda: None)
        except LearnerDied as e:
            self._replace(str(e))

    def _wait_for_start(self, meanwhile: Callable[[], None]) -> None:
        while (update := self._learner.started(wait_s=0.5)) is None:
            meanwhile()
        self._accept_result(update)

    def _accept_result(self, update: Update, wait_s: float = math.inf) -> UpdateResult | None:
        """Take over counters and weights of an update; None if it does not finish within `wait_s` seconds."""
        result = self._learner.result(update, wait_s)
        if result is not None:
            self.counters = result.counters
            if result.published:
                self.weights = update.weights
                self._publish(update.weights, result.counters.version)
        return result

    # -- updates -----------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Number of updates whose results have not been consumed."""
        return len(self._in_flight)

    def submit(self, batch: Sequence[RolloutRef]) -> None:
        """Give the learner a batch."""
        infos = [rollout.info for rollout in batch]
        update = self._learner.update([info.version for info in infos], [rollout.data for rollout in batch])
        self._in_flight.append((update, infos))

    def pending(self) -> list[Any]:
        """References of the answers that the oldest update in flight waits for."""
        return self._learner.pending(self._in_flight[0][0]) if self._in_flight else []

    def has_news(self, pending: Sequence[Any], done: Sequence[Any]) -> bool:
        """Whether a rank answered the oldest update or failed, or the update is late.

        Args:
            pending: earlier answer of `pending`.
            done: references that have a result by now.
        """
        if not self._in_flight:
            return False
        update, _ = self._in_flight[0]
        return len(pending) < len(update.ranks) or not set(done).isdisjoint(pending) or self._learner.late(update)

    def consume(self, wait_s: float) -> FinishedUpdate | None:
        """Take the result of the oldest update in flight.

        None if it does not finish within `wait_s` seconds, its rollouts were lost, or the learner died, which is
        then replaced. Raises `TrainingError` if training cannot go on.
        """
        update, infos = self._in_flight[0]
        version = self.counters.version
        try:
            result = self._accept_result(update, wait_s)
        except RolloutsLost as e:
            self._in_flight.popleft()
            self._event("unrolls_lost", error=str(e))
            return None
        except LearnerDied as e:
            self._replace(str(e))
            return None
        if result is None:
            return None
        self._in_flight.popleft()
        return FinishedUpdate(infos, [version - info.version for info in infos], result.metrics)

    # -- state -------------------------------------------------------------------------------

    def refresh_rescue_copy(self) -> None:
        """Fetch the learner's state into memory from time to time, without waiting for it."""
        if self._copy is not None:
            if self._port.wait([self._copy], timeout=0)[0]:
                copy, self._copy = self._copy, None
                try:
                    self.rescue_copy = self._port.get(copy)
                except ray.exceptions.RayError as e:  # the learner died, perhaps while it had nothing to do
                    # An update that failed is reported by its own result, which `consume` takes.
                    if not (self._in_flight and isinstance(e, ray.exceptions.RayTaskError)):
                        self._replace(reason_of(e))
        elif self._port.now() - self._copied_at >= COPY_EVERY_S:
            self._copy, self._copied_at = self._learner.state(), self._port.now()

    def state(self) -> dict[str, Any]:
        """Learner state after the updates in flight, which also becomes the rescue copy."""
        self._copy = None
        self.rescue_copy = state = self._ask(lambda: self._learner.state())
        return state

    def hyperparameters(self) -> list[LearnerConfig]:
        """Hyperparameters in force at each rank."""
        return self._ask(lambda: self._learner.hyperparameters())

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Answer of the learner; one that dies is replaced, and its replacement is asked again."""
        while True:
            try:
                return self._port.get(call(), timeout=self._config.learner.timeout_s)
            except ray.exceptions.RayError as e:
                self._replace(reason_of(e))

    def preview(self) -> RolloutPreview | None:
        """See `LearnerGroup.preview`."""
        return self._learner.preview()

    def load_member(self, config: Config, state: dict[str, Any]) -> None:
        """Load another member's state and hyperparameters; no update may be in flight.

        From the call on a learner that dies is replaced by one with these, until `confirm` ends the change.
        """
        self._config, self.committed, self._copy = config, state, None
        try:
            self._accept_result(self._learner.load_member(config, state))
        except LearnerDied as e:
            self._replace(str(e))

    def confirm(self) -> None:
        """End the change of `load_member`: the learner was seen to hold the committed state."""
        self.committed = None

    # -- replacement -------------------------------------------------------------------------

    def _replace(self, reason: str) -> None:
        """Replace a learner that died, and wait until its replacement has started; actors play on meanwhile."""
        since, lost = self._port.now(), self.counters
        self._in_flight.clear()
        self._copy = None
        if self._config.learner.size > 1 and self.committed is None:
            self.rescue_copy = self._learner.rescue(RESCUE_S) or self.rescue_copy
        while True:
            self._event("learner_died", error=reason)
            self._learner.kill()
            try:
                self._budget.spend(reason)
                self._learner = self._make(_with_later_version(self.last_known, lost.version))
                self._wait_for_start(self._meanwhile)
                break
            except LearnerDied as e:
                reason = str(e)
            except TrainingError as e:
                if self.last_known is not None:
                    self._save(self.last_known)
                raise TrainingError(str(e)) from None  # not `GivenUp`: there is no learner to take a checkpoint of
        self._copied_at = self._port.now()
        self._event(
            "learner_restarted",
            seconds=round(self._port.now() - since, 2),
            env_frames=self.counters.env_frames,
            frames_lost=max(0, lost.env_frames - self.counters.env_frames),
        )

    def kill(self) -> None:
        """End the learner's processes."""
        self._learner.kill()


def _with_later_version(state: dict[str, Any] | None, lost_version: int) -> dict[str, Any] | None:
    """A state with a version of weights that no actor has seen, so that actors take its weights for newer."""
    if state is None:
        return None
    version = 1 + max(lost_version, state["counters"]["version"])
    return state | {"counters": state["counters"] | {"version": version}}
