"""The learner as a Ray process."""

import contextlib
import socket
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.errors import TrainingError
from impala_mi.learner.distributed import join, listen
from impala_mi.learner.transfer import HostCopy, Staged, Stager
from impala_mi.learner.update import Began, Counters, Learner
from impala_mi.machine import default_threads, keep_freed_memory
from impala_mi.types import Transitions

Weights = dict[str, np.ndarray]

_OUTCOME = "outcome"


@dataclass(frozen=True)
class UpdateResult:
    """What the driver learns of an update."""

    counters: Counters
    metrics: dict[str, float]
    weights: ray.ObjectRef[Weights] | None
    """Of the new version; None where the update was skipped."""


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
    """Three steps for every batch, each in a thread of its own: one batch is brought while another is learnt.

    The large work is the main thread's, as malloc keeps only its freed memory. What a step leaves waits in a queue
    for the next one; batches are taken in the order in which they come.
    """

    def __init__(self, config: Config, rank: int) -> None:
        keep_freed_memory()
        self._config, self._rank = config, rank
        self._listener: socket.socket | None = None

    def address(self) -> tuple[str, int]:
        """Where rank 0 waits for the others: on loopback, or on the cluster's network where there is a cluster."""
        ip = _own_ip()
        self._listener, port = listen(ip)
        return ip, port

    def start(self, state: dict[str, Any] | None, address: tuple[str, int] | None) -> UpdateResult:
        """Join the other ranks and go on from `state`; the counters and weights to begin with."""
        config = self._config
        size = config.learner.size
        threads = config.learner.num_threads or max(1, default_threads() // size)
        torch.set_num_threads(threads)
        if address is not None:
            join(self._rank, size, *address, _own_ip(), self._listener)
        suite = make_suite(config.env)
        device = torch.device("cuda" if config.learner.num_gpus else "cpu")
        self._learner = Learner(config, suite.spaces, suite.action_repeat, device, size)
        if state is not None:
            self._learner.load_state(state)
        self._stager = Stager(device, threads)
        self._staged, self._begun = deque[tuple[Staged, list[int], float]](), deque[_Begun]()
        self._done_at, self._cpu_before = 0.0, time.process_time()
        return UpdateResult(replace(self._learner.counters), {}, self._publish(self._learner.weights()))

    def stage(self, versions: list[int], *unrolls: Transitions) -> None:
        """Bring unrolls, which weights of `versions` played, to the device."""
        began = time.perf_counter()
        staged = self._stager.stage(unrolls)
        self._staged.append((staged, versions, time.perf_counter() - began))

    def begin(self, _staged: None) -> None:
        """Give the device an update's work."""
        began_at = time.perf_counter()
        staged, versions, stack_s = self._staged.popleft()
        version = self._learner.counters.version + len(self._begun)
        lags = [version - v for v in versions]
        began = self._learner.begin(staged.take())
        home = HostCopy({_OUTCOME: began.outcome} | self._learner.agent.state_dict())
        metrics = {"lag_mean": float(np.mean(lags)), "lag_max": float(max(lags)), "time/stack_s": stack_s}
        self._begun.append(_Begun(began, home, began_at, metrics))

    def finish(self, _begun: None) -> UpdateResult:
        """Wait for an update and publish its weights."""
        begun = self._begun[0]
        there = begun.home.wait()
        version = self._learner.counters.version
        metrics = self._learner.finish(replace(begun.began, outcome=there.pop(_OUTCOME)))
        self._begun.popleft()
        weights = None
        if self._learner.counters.version != version:
            weights = self._publish({name: tensor.numpy() for name, tensor in there.items()})
        now, cpu = time.perf_counter(), time.process_time()
        metrics |= begun.metrics | {
            "time/update_s": now - max(begun.at, self._done_at),
            "time/learner_cpu_s": cpu - self._cpu_before,
        }
        self._done_at, self._cpu_before = now, cpu
        return UpdateResult(replace(self._learner.counters), metrics, weights)

    def alive(self) -> None:
        """Answers where the process lives."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: after the updates that were begun."""
        while self._begun:
            time.sleep(0.001)
        return self._learner.state()

    def _publish(self, weights: Weights) -> ray.ObjectRef[Weights] | None:
        if self._rank:
            return None  # they are rank 0's
        self._weights = ray.put(weights)  # the old version's last owner lets go
        return self._weights


@dataclass(frozen=True)
class Update:
    """An update that all ranks are at."""

    since: float
    ranks: list[ray.ObjectRef[UpdateResult]]


class LearnerDied(Exception):
    """A rank is gone, and the others cannot go on."""


class UnrollsLost(Exception):
    """Unrolls of a batch went with their node; the learner is well."""


LOST = (ray.exceptions.ObjectLostError, ray.exceptions.ObjectFetchTimedOutError)


class LearnerGroup:
    """The learner: one process, or ranks that learn together, each from an equal part of every batch.

    Ranks are placed on as few nodes as can be.

    Args:
        config: the run's configuration.
        state: to go on from, or None.
        process: of a rank.
    """

    def __init__(self, config: Config, state: dict[str, Any] | None, process: type = _Learner) -> None:
        learner = config.learner
        self._config, size = config, learner.size
        needs = {"CPU": learner.num_cpus} | ({"GPU": 1} if learner.num_gpus else {})
        self._placement = placement_group([needs] * size, strategy="PACK") if size > 1 else None
        decorate: Any = ray.remote
        made = decorate(concurrency_groups=dict.fromkeys(("stage", "finish"), 1))(process)
        self._ranks: list[Any] = [
            made.options(
                num_cpus=learner.num_cpus,
                num_gpus=1 if learner.num_gpus else 0,
                max_restarts=0,
                scheduling_strategy="DEFAULT"
                if self._placement is None
                else PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=rank),
            ).remote(config, rank)
            for rank in range(size)
        ]
        address = self._ranks[0].address.remote() if size > 1 else None
        self._started = Update(time.monotonic(), [rank.start.remote(state, address) for rank in self._ranks])

    def start(self) -> UpdateResult:
        """Wait until all ranks are there; the counters and weights to begin with."""
        return self.result(self._started)

    def update(self, versions: list[int], unrolls: list[ray.ObjectRef[Transitions]]) -> Update:
        """Learn from hand-ins, which weights of `versions` played."""
        size = len(self._ranks)
        refs = []
        for i, rank in enumerate(self._ranks):
            staged = rank.stage.options(concurrency_group="stage").remote(versions, *unrolls[i::size])
            begun = rank.begin.remote(staged)
            refs.append(rank.finish.options(concurrency_group="finish").remote(begun))
        return Update(time.monotonic(), refs)

    def result(self, update: Update) -> UpdateResult:
        """Of an update of which some rank is done; waits for the others.

        Raises `LearnerDied`, `UnrollsLost`, or `TrainingError` where training cannot go on.
        """
        limit = update.since + self._config.learner.timeout_s
        left = list(update.ranks)
        while left:
            done, left = ray.wait(left, timeout=max(0.0, limit - time.monotonic()))
            if not done:
                raise LearnerDied(
                    f"an update took longer than learner.timeout_s={self._config.learner.timeout_s:g}"
                )
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as e:
                if isinstance(e.cause, TrainingError):
                    raise TrainingError(str(e.cause)) from None
                if isinstance(e.cause, LOST) or isinstance(e, LOST):
                    self._raise_lost(e)
                self._raise_if_dead()  # the others lost their connection to it
                raise TrainingError(f"the learner failed: {type(e.cause).__name__}: {e.cause}") from e
            except LOST as e:
                self._raise_lost(e)
            except ray.exceptions.RayError as e:
                raise LearnerDied(str(e).strip().splitlines()[0]) from None
        first: UpdateResult = ray.get(update.ranks[0])
        return first

    def late(self, update: Update) -> bool:
        """Whether an update has taken longer than it may."""
        return time.monotonic() - update.since > self._config.learner.timeout_s

    def state(self) -> ray.ObjectRef[dict[str, Any]]:
        """Reference of the state for a checkpoint, after the updates asked for so far."""
        return self._ranks[0].state.remote()

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
        if self._placement is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                remove_placement_group(self._placement)

    def _raise_lost(self, error: Exception) -> None:
        """Unrolls were lost with their node: one rank leaves the batch out, more wait for each other."""
        reason = str(error).strip().splitlines()[0]
        raise UnrollsLost(reason) if len(self._ranks) == 1 else LearnerDied(reason)

    def _raise_if_dead(self) -> None:
        """Raise `LearnerDied` where a rank does not answer any more."""
        for rank in self._ranks:
            try:
                ray.get(rank.alive.options(concurrency_group="finish").remote(), timeout=5)
            except ray.exceptions.RayActorError as e:
                raise LearnerDied(str(e).strip().splitlines()[0]) from None
            except ray.exceptions.GetTimeoutError:
                pass
