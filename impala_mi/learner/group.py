"""The learner as seen by the driver: one Ray process, or ranks that learn together."""

import contextlib
import math
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from impala_mi.config import Config, LearnerConfig
from impala_mi.errors import TrainingError
from impala_mi.host.threads import KEEP_FREED_MEMORY
from impala_mi.learner.worker import SAMPLE_S, UpdateResult, _Learner
from impala_mi.types import RolloutPreview, Transitions, Weights


@dataclass(frozen=True)
class Update:
    """An update that all ranks are at."""

    since: float
    ranks: list[ray.ObjectRef[UpdateResult]]
    weights: ray.ObjectRef[Weights]
    """Of the new version, if it is published; they are the driver's own, and outlive the learner."""


class LearnerDied(Exception):
    """A rank is gone or does not answer, and the others cannot go on."""


class RolloutsLost(Exception):
    """Unrolls of a batch went with their node; the learner is well."""


class LearnerGroup:
    """The learner: one process, or ranks that learn together, each from an equal part of every batch.

    Args:
        config: the run's configuration.
        state: to go on from, or None.
        placement: of the ranks, from `place`.
        process: of a rank.
    """

    def __init__(
        self, config: Config, state: dict[str, Any] | None, placement: PlacementGroup, process: type = _Learner
    ) -> None:
        learner = config.learner
        self._config, size = config, learner.size
        decorate: Any = ray.remote
        made = decorate(concurrency_groups=dict.fromkeys(("stage", "finish"), 1))(process)
        self._ranks: list[Any] = [
            made.options(
                num_cpus=learner.num_cpus,
                num_gpus=1 if learner.num_gpus else 0,
                max_restarts=0,
                runtime_env={"env_vars": KEEP_FREED_MEMORY},  # its threads allocate before any of its own lines
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=rank),
            ).remote(config, rank)
            for rank in range(size)
        ]
        self._number = 0
        self._made = time.monotonic()
        self._placed = [rank.alive.remote() for rank in self._ranks]
        address = self._ranks[0].address.remote() if size > 1 else None
        answers = [rank.start.options(num_returns=2).remote(state, address) for rank in self._ranks]
        self._started = [result for result, _ in answers]
        self._first_weights = answers[0][1]
        self._starting: Update | None = None
        self._answered_at = -math.inf

    def started(self, wait_s: float) -> Update | None:
        """The start as an update, when all ranks are there; waits so long. Raises `LearnerDied`."""
        if self._starting is None:
            if len(ray.wait(self._placed, num_returns=len(self._placed), timeout=wait_s)[0]) < len(self._placed):
                if time.monotonic() - self._made > (limit := self._config.actors.quorum_s):
                    raise LearnerDied(f"no room for it for actors.quorum_s={limit:g} s")
                return None
            self._starting = Update(time.monotonic(), self._started, self._first_weights)
        done = ray.wait(self._started, num_returns=1, timeout=wait_s)[0]
        return self._starting if done or self.late(self._starting) else None

    def update(self, versions: list[int], unrolls: list[ray.ObjectRef[Transitions]]) -> Update:
        """Learn from hand-ins, which weights of `versions` played."""
        size, self._number = len(self._ranks), self._number + 1
        staged = [
            rank.stage.options(concurrency_group="stage").remote(self._number, versions, *unrolls[i::size])
            for i, rank in enumerate(self._ranks)
        ]
        # No rank begins, and waits for the others, before all have their parts: unrolls may be lost with a node.
        begun = [rank.begin.remote(self._number, *staged) for rank in self._ranks]
        answers = [
            rank.finish.options(concurrency_group="finish", num_returns=2).remote(ref)
            for rank, ref in zip(self._ranks, begun, strict=True)
        ]
        return Update(time.monotonic(), [result for result, _ in answers], answers[0][1])

    def adopt(self, config: Config, state: dict[str, Any]) -> Update:
        """Have all go on from another state with other settings of the learner, when no update is under way."""
        self._config, there = config, ray.put(state)
        learner = config.learner
        answers = [rank.adopt.options(num_returns=2).remote(there, learner) for rank in self._ranks]
        return Update(time.monotonic(), [result for result, _ in answers], answers[0][1])

    def settings(self) -> list[ray.ObjectRef[LearnerConfig]]:
        """References of what is in force at each rank."""
        return [rank.settings.remote() for rank in self._ranks]

    def pending(self, update: Update) -> list[ray.ObjectRef[UpdateResult]]:
        """Of the ranks that are still at it."""
        return ray.wait(update.ranks, num_returns=len(update.ranks), timeout=0)[1]

    def result(self, update: Update, wait_s: float = math.inf) -> UpdateResult | None:
        """Of an update; None where some rank is still at it after `wait_s`.

        Raises `LearnerDied`, `RolloutsLost`, or `TrainingError` where training cannot go on.
        """
        limit, left, deadline = self._config.learner.timeout_s, list(update.ranks), time.monotonic() + wait_s
        while left:
            until = min(self._begun_at(update) + limit, deadline)
            done, left = ray.wait(left, timeout=max(0.0, until - time.monotonic()))
            if not done and self.late(update):
                raise LearnerDied(f"no answer in learner.timeout_s={limit:g}")
            if not done and time.monotonic() >= deadline:
                return None
            try:
                ray.get(done)
            except ray.exceptions.RayError as e:
                self._raise(e)
        first: UpdateResult = ray.get(update.ranks[0])
        self._answered_at = time.monotonic()
        return first

    def _raise(self, error: ray.exceptions.RayError) -> None:
        causes: list[Exception] = [error]
        while isinstance(cause := getattr(causes[-1], "cause", None), Exception):
            causes.append(cause)
        reason = str(causes[-1]).strip().splitlines()
        for cause in causes:
            if isinstance(cause, TrainingError):
                raise TrainingError(str(cause)) from None
            if isinstance(cause, ray.exceptions.ObjectLostError):
                raise RolloutsLost(reason[0]) from None
        if isinstance(error, ray.exceptions.RayTaskError) and len(self._ranks) == 1:
            raise TrainingError(f"the learner failed: {type(causes[-1]).__name__}: {causes[-1]}") from error
        # Of several ranks, those that live lose their connection to the one that died.
        raise LearnerDied(reason[0] if reason else repr(error)) from None

    def late(self, update: Update) -> bool:
        """Whether an update has taken longer than it may."""
        return time.monotonic() - self._begun_at(update) > self._config.learner.timeout_s

    def _begun_at(self, update: Update) -> float:
        """When its turn came: one that was asked for while another was under way waited for that."""
        return max(update.since, self._answered_at)

    def state(self) -> ray.ObjectRef[dict[str, Any]]:
        """Reference of the state for a checkpoint, after the updates asked for so far."""
        return self._ranks[0].state.remote()

    def sample(self) -> RolloutPreview | None:
        """See `learner.sample`; None where there is none, or no answer in `SAMPLE_S`."""
        # A death is found out by the next update.
        with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            found: RolloutPreview | None = ray.get(self._ranks[0].sample.remote(), timeout=SAMPLE_S)
            return found
        return None

    def rescue(self, timeout: float) -> dict[str, Any] | None:
        """The state that a rank which still lives holds in memory: all have the same."""
        left = [rank.state.remote() for rank in self._ranks]
        deadline = time.monotonic() + timeout
        while left:
            done, left = ray.wait(left, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                break
            with contextlib.suppress(ray.exceptions.RayError):
                state: dict[str, Any] = ray.get(done[0])
                return state
        return None

    def kill(self) -> None:
        """End the processes."""
        for rank in self._ranks:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(rank)
