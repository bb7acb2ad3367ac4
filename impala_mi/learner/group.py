"""The learner as the driver sees it: ranks, each a Ray process, that learn together from parts of every batch."""

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from impala_mi.config import Config, LearnerConfig
from impala_mi.errors import TrainingError
from impala_mi.host.port import Port
from impala_mi.host.threads import KEEP_FREED_MEMORY
from impala_mi.learner.pipeline import UpdateResult
from impala_mi.learner.worker import PREVIEW_TIMEOUT_S, _Learner
from impala_mi.types import RolloutPreview, Transitions, Weights

Answer = tuple["ray.ObjectRef[UpdateResult]", "ray.ObjectRef[Weights]"]
"""References of what a rank says of an update, and of rank 0's new weights."""


class RankProcess:
    """A typed handle of one rank's process.

    Args:
        config: the run's configuration.
        rank: number of the rank, which is also its bundle in `placement`.
        placement: resources of the ranks, from `reserve`.
        process: class of the process.
    """

    def __init__(self, config: Config, rank: int, placement: PlacementGroup, process: type = _Learner) -> None:
        decorate: Any = ray.remote
        made = decorate(concurrency_groups=dict.fromkeys(("stage", "finish"), 1))(process)
        self._handle = made.options(
            num_cpus=config.learner.num_cpus,
            num_gpus=1 if config.learner.num_gpus else 0,
            max_restarts=0,
            runtime_env=_runtime_env(),
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=rank),
        ).remote(config, rank)

    def alive(self) -> "ray.ObjectRef[None]":
        """Answers as soon as the process lives."""
        return self._handle.alive.remote()

    def address(self) -> "ray.ObjectRef[tuple[str, int]]":
        """See `_Learner.address`."""
        return self._handle.address.remote()

    def start(self, state: dict[str, Any] | None, address: "ray.ObjectRef[tuple[str, int]] | None") -> Answer:
        """See `_Learner.start`."""
        return tuple(self._handle.start.options(num_returns=2).remote(state, address))

    def stage(
        self, number: int, versions: Sequence[int], rollouts: "Sequence[ray.ObjectRef[Transitions]]"
    ) -> "ray.ObjectRef[None]":
        """See `_Learner.stage`."""
        return self._handle.stage.options(concurrency_group="stage").remote(number, versions, *rollouts)

    def begin(self, number: int, staged: "Sequence[ray.ObjectRef[None]]") -> "ray.ObjectRef[int]":
        """Begin an update once all `staged` references have a result; see `_Learner.begin`."""
        return self._handle.begin.remote(number, *staged)

    def finish(self, begun: "ray.ObjectRef[int]") -> Answer:
        """See `_Learner.finish`."""
        return tuple(self._handle.finish.options(concurrency_group="finish", num_returns=2).remote(begun))

    def load_member(self, state: "ray.ObjectRef[dict[str, Any]]", learner: LearnerConfig) -> Answer:
        """See `_Learner.load_member`."""
        return tuple(self._handle.load_member.options(num_returns=2).remote(state, learner))

    def hyperparameters(self) -> "ray.ObjectRef[LearnerConfig]":
        """See `_Learner.hyperparameters`."""
        return self._handle.hyperparameters.remote()

    def state(self) -> "ray.ObjectRef[dict[str, Any]]":
        """See `_Learner.state`."""
        return self._handle.state.remote()

    def preview(self) -> "ray.ObjectRef[RolloutPreview | None]":
        """See `_Learner.preview`."""
        return self._handle.preview.remote()

    def kill(self) -> None:
        """End the process."""
        ray.kill(self._handle)


def start_ranks(config: Config, placement: PlacementGroup, process: type = _Learner) -> list[RankProcess]:
    """Create the processes of all ranks."""
    return [RankProcess(config, rank, placement, process) for rank in range(config.learner.size)]


def _runtime_env() -> dict[str, Any] | None:
    """Environment in which a rank keeps freed memory from its start, as threads allocate before it runs our code.

    None if Ray's processes inherit it from this one: a process with a runtime environment starts a second later.
    """
    inherited = not os.environ.get("RAY_ADDRESS") and os.environ.items() >= KEEP_FREED_MEMORY.items()
    return None if inherited else {"env_vars": KEEP_FREED_MEMORY}


@dataclass(frozen=True)
class Update:
    """An update, or a start, that all ranks are working on."""

    since: float
    """Time at which it was asked for, in seconds of the port's clock."""
    ranks: "list[ray.ObjectRef[UpdateResult]]"
    """Answer of each rank."""
    weights: "ray.ObjectRef[Weights]"
    """New weights, if the update publishes any; the driver owns them, so they outlive the learner."""


class LearnerDied(Exception):
    """A rank is dead or does not answer, so the other ranks cannot continue."""


class RolloutsLost(Exception):
    """Rollouts of a batch were lost with their node; the learner is well."""


class LearnerGroup:
    """All ranks of the learner, each of which learns from an equal part of every batch.

    Args:
        config: the run's configuration.
        state: learner state to start from, or None.
        ranks: handles of the ranks, from `start_ranks`.
        port: calls to remote processes, and the clock.
    """

    def __init__(
        self, config: Config, state: dict[str, Any] | None, ranks: Sequence[RankProcess], port: Port
    ) -> None:
        self._config, self._ranks, self._port = config, ranks, port
        self._number = 0
        self._created_at = port.now()
        self._alive = [rank.alive() for rank in ranks]
        address = ranks[0].address() if len(ranks) > 1 else None
        self._start_answers = [rank.start(state, address) for rank in ranks]
        self._start: Update | None = None
        self._answered_at = -math.inf

    def started(self, wait_s: float) -> Update | None:
        """The start as an update, or None if no rank has finished it in `wait_s` seconds.

        Raises `LearnerDied` if the ranks get no resources in `actors.quorum_s`.
        """
        if self._start is None:
            alive, _ = self._port.wait(self._alive, num_returns=len(self._alive), timeout=wait_s)
            if len(alive) < len(self._alive):
                if self._port.now() - self._created_at > (limit := self._config.actors.quorum_s):
                    raise LearnerDied(f"no free resources for it for actors.quorum_s={limit:g} s")
                return None
            self._start = self._as_update(self._start_answers)  # its timeout counts from here
        done, _ = self._port.wait(self._start.ranks, num_returns=1, timeout=wait_s)
        return self._start if done or self.late(self._start) else None

    def update(self, versions: list[int], rollouts: "Sequence[ray.ObjectRef[Transitions]]") -> Update:
        """Learn from rollouts, which weights of `versions` played."""
        size, self._number = len(self._ranks), self._number + 1
        staged = [rank.stage(self._number, versions, rollouts[i::size]) for i, rank in enumerate(self._ranks)]
        # A rank that begins waits for the others, so none begins before all have their parts: rollouts may be lost.
        begun = [rank.begin(self._number, staged) for rank in self._ranks]
        return self._as_update([rank.finish(ref) for rank, ref in zip(self._ranks, begun, strict=True)])

    def load_member(self, config: Config, state: dict[str, Any]) -> Update:
        """Have all ranks load another state and other hyperparameters; no update may be in flight."""
        self._config, stored = config, self._port.put(state)
        return self._as_update([rank.load_member(stored, config.learner) for rank in self._ranks])

    def _as_update(self, answers: Sequence[Answer]) -> Update:
        return Update(self._port.now(), [result for result, _ in answers], answers[0][1])

    def hyperparameters(self) -> "list[ray.ObjectRef[LearnerConfig]]":
        """References of the hyperparameters in force at each rank."""
        return [rank.hyperparameters() for rank in self._ranks]

    def pending(self, update: Update) -> "list[ray.ObjectRef[UpdateResult]]":
        """Answers of an update that have not arrived."""
        return self._port.wait(update.ranks, num_returns=len(update.ranks), timeout=0)[1]

    def result(self, update: Update, wait_s: float = math.inf) -> UpdateResult | None:
        """Result of an update, or None if a rank is still working on it after `wait_s` seconds.

        Raises `LearnerDied`, `RolloutsLost`, or `TrainingError` if training cannot go on.
        """
        limit, pending = self._config.learner.timeout_s, list(update.ranks)
        deadline = self._port.now() + wait_s
        while pending:
            until = min(self._turn_at(update) + limit, deadline)
            done, pending = self._port.wait(pending, timeout=max(0.0, until - self._port.now()))
            if not done and self.late(update):
                raise LearnerDied(f"no answer in learner.timeout_s={limit:g}")
            if not done and self._port.now() >= deadline:
                return None
            try:
                self._port.get(done)
            except ray.exceptions.RayError as e:
                self._raise(e)
        first: UpdateResult = self._port.get(update.ranks[0])
        self._answered_at = self._port.now()
        return first

    def _raise(self, error: ray.exceptions.RayError) -> None:
        """Raise what the error of a rank means for the run."""
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
        # Ranks that are alive fail too: they lose their connection to the one that died.
        raise LearnerDied(reason[0] if reason else repr(error)) from None

    def late(self, update: Update) -> bool:
        """Whether an update has taken longer than `learner.timeout_s`."""
        return self._port.now() - self._turn_at(update) > self._config.learner.timeout_s

    def _turn_at(self, update: Update) -> float:
        """Time of an update's turn: an update waits for the one in flight before it."""
        return max(update.since, self._answered_at)

    def state(self) -> "ray.ObjectRef[dict[str, Any]]":
        """Reference of the learner state after the updates asked for so far, for a checkpoint."""
        return self._ranks[0].state()

    def preview(self) -> RolloutPreview | None:
        """Preview of a recent rollout; None before the first batch, or without an answer in `PREVIEW_TIMEOUT_S`."""
        # The next update reports a death.
        with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            preview: RolloutPreview | None = self._port.get(self._ranks[0].preview(), timeout=PREVIEW_TIMEOUT_S)
            return preview
        return None

    def rescue(self, timeout: float) -> dict[str, Any] | None:
        """State of any rank that is still alive, or None if none answers in time; all ranks hold the same."""
        pending = [rank.state() for rank in self._ranks]
        deadline = self._port.now() + timeout
        while pending:
            done, pending = self._port.wait(pending, timeout=max(0.0, deadline - self._port.now()))
            if not done:
                break
            with contextlib.suppress(ray.exceptions.RayError):
                state: dict[str, Any] = self._port.get(done[0])
                return state
        return None

    def kill(self) -> None:
        """End the processes."""
        for rank in self._ranks:
            with contextlib.suppress(ray.exceptions.RayError):
                rank.kill()
