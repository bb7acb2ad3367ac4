"""The learner as a Ray process."""

import contextlib
import math
import socket
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import ray
import torch
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from impala_mi.config import Config, LearnerConfig
from impala_mi.envs.suites import make_suite
from impala_mi.errors import TrainingError
from impala_mi.learner.distributed import join, listen
from impala_mi.learner.preview import one_column, sample
from impala_mi.learner.transfer import HostCopy, Staged, Stager
from impala_mi.learner.update import Began, Counters, Learner
from impala_mi.host.threads import KEEP_FREED_MEMORY, default_threads
from impala_mi.types import Sample, Transitions

Weights = dict[str, np.ndarray]

_OUTCOME = "outcome"

SAMPLE_EVERY_S = 60.0
"""A copy of one environment's unroll is kept so often."""
SAMPLE_S = 10.0
"""For which the driver waits for a sample."""


@dataclass(frozen=True)
class UpdateResult:
    """What the driver learns of an update."""

    counters: Counters
    metrics: dict[str, float]
    published: bool
    """Whether there are new weights: an update that was skipped has none."""


@dataclass(frozen=True)
class _Staged:
    """A batch on its way to the device."""

    batch: Staged
    versions: list[int]
    seconds: float


@dataclass(frozen=True)
class _Begun:
    """An update under way."""

    began: Began
    home: HostCopy
    at: float
    metrics: dict[str, float]


def _own_ip() -> str:
    """Of this node in the cluster's network: loopback where Ray is our own."""
    here = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == here]
    return str(node["NodeManagerAddress"])


class _Learner:
    """Three steps for every batch, each in a thread of its own: one batch is brought while another is learnt."""

    def __init__(self, config: Config, rank: int) -> None:
        self._config, self._rank = config, rank
        self._listener: socket.socket | None = None
        self._column: Transitions | None = None
        self._column_at, self._columns = -math.inf, 0

    def address(self) -> tuple[str, int]:
        """Where rank 0 waits for the others: on loopback, or on the cluster's network where there is a cluster."""
        ip = _own_ip()
        self._listener, port = listen(ip)
        return ip, port

    def start(
        self, state: dict[str, Any] | None, address: tuple[str, int] | None
    ) -> tuple[UpdateResult, Weights | None]:
        """Join the other ranks and go on from `state`; the counters and weights to begin with."""
        config, size = self._config, self._config.learner.size
        threads = config.learner.num_threads or max(1, default_threads() // size)
        torch.set_num_threads(threads)
        device = torch.device("cuda" if config.learner.num_gpus else "cpu")
        if address is not None:
            # Longer than the driver waits: it then replaces all ranks.
            patience = timedelta(seconds=config.learner.timeout_s + 60)
            join(self._rank, size, *address, _own_ip(), self._listener, device, patience)
        suite = make_suite(config.env)
        self._learner = Learner(config, suite.spaces, suite.action_repeat, device, size, threads)
        if state is not None:
            self._learner.load_state(state)
        self._stager = Stager(device, threads, self._learner.even)
        self._staged, self._begun = dict[int, _Staged](), deque[_Begun]()
        self._done_at, self._cpu_before = 0.0, time.process_time()
        return self._stand()

    def adopt(self, state: dict[str, Any], settings: LearnerConfig) -> tuple[UpdateResult, Weights | None]:
        """Go on from another state with other settings, when no update is under way; as `start`."""
        self._learner.change(settings)
        self._learner.load_state(state)
        self._staged.clear()
        return self._stand()

    def _stand(self) -> tuple[UpdateResult, Weights | None]:
        """Where it begins to learn from."""
        self._version_begun = self._learner.counters.version
        weights = None if self._rank else self._learner.weights()
        return UpdateResult(replace(self._learner.counters), {}, True), weights

    def settings(self) -> LearnerConfig:
        """In force."""
        return self._learner.config.learner

    def stage(self, number: int, versions: list[int], *unrolls: Transitions) -> None:
        """Bring the unrolls of a batch, which weights of `versions` played, to the device."""
        began = time.perf_counter()
        batch = self._stager.stage(unrolls)
        if not self._rank and began - self._column_at > SAMPLE_EVERY_S:
            width = unrolls[0].action.shape[1]
            actor, column = divmod(self._columns % (len(unrolls) * width), width)
            self._column, self._column_at = one_column(unrolls[actor], column), began
            self._columns += 1
        self._staged[number] = _Staged(batch, versions, time.perf_counter() - began)

    def begin(self, number: int, *_staged: None) -> None:
        """Give the device an update's work, when all ranks have their parts of the batch."""
        began_at = time.perf_counter()
        staged = self._staged.pop(number)
        # Those of which another rank's unrolls were lost; of a copy, as the next may be staged meanwhile.
        for older in [n for n in list(self._staged) if n < number]:
            del self._staged[older]
        lags = [self._version_begun - v for v in staged.versions]
        began = self._learner.begin(staged.batch.take())
        self._version_begun += 1
        home = HostCopy({_OUTCOME: began.outcome} | self._learner.agent.state_dict())
        metrics = {"lag_mean": float(np.mean(lags)), "lag_max": float(max(lags)), "time/stack_s": staged.seconds}
        self._begun.append(_Begun(began, home, began_at, metrics))

    def finish(self, _begun: None) -> tuple[UpdateResult, Weights | None]:
        """Wait for an update; what came of it, and rank 0's new weights."""
        begun = self._begun[0]
        there = begun.home.wait()
        version = self._learner.counters.version
        metrics = self._learner.finish(replace(begun.began, outcome=there.pop(_OUTCOME)))
        self._begun.popleft()
        published = self._learner.counters.version != version
        self._version_begun -= not published
        now, cpu = time.perf_counter(), time.process_time()
        metrics |= begun.metrics | {
            "time/update_s": now - max(begun.at, self._done_at),
            "time/learner_cpu_s": cpu - self._cpu_before,
        }
        self._done_at, self._cpu_before = now, cpu
        result = UpdateResult(replace(self._learner.counters), metrics, published)
        wanted = published and not self._rank
        return result, {name: tensor.numpy() for name, tensor in there.items()} if wanted else None

    def alive(self) -> None:
        """Answers where the process lives."""

    def sample(self) -> Sample | None:
        """Of what was learnt from lately; None before the first batch."""
        learner = self._learner
        return None if self._column is None else sample(learner.agent, self._column, learner.device, learner.even)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: after the updates that were begun."""
        while self._begun:
            time.sleep(0.001)
        return self._learner.state()


@dataclass(frozen=True)
class Update:
    """An update that all ranks are at."""

    since: float
    ranks: list[ray.ObjectRef[UpdateResult]]
    weights: ray.ObjectRef[Weights]
    """Of the new version, if it is published; they are the driver's own, and outlive the learner."""


class LearnerDied(Exception):
    """A rank is gone or does not answer, and the others cannot go on."""


class UnrollsLost(Exception):
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

        Raises `LearnerDied`, `UnrollsLost`, or `TrainingError` where training cannot go on.
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
                raise UnrollsLost(reason[0]) from None
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

    def sample(self) -> Sample | None:
        """See `learner.sample`; None where there is none, or no answer in `SAMPLE_S`."""
        # A death is found out by the next update.
        with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            found: Sample | None = ray.get(self._ranks[0].sample.remote(), timeout=SAMPLE_S)
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
