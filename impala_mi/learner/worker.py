"""The learner as a Ray process."""

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

from impala_mi.config import Config, LearnerConfig
from impala_mi.envs.suites import make_suite
from impala_mi.host.threads import default_threads
from impala_mi.learner.distributed import join, listen
from impala_mi.learner.preview import one_column, sample
from impala_mi.learner.transfer import DeviceBatch, HostCopy, Stager
from impala_mi.learner.update import Counters, Learner, PendingUpdate
from impala_mi.types import RolloutPreview, Transitions, Weights

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
class StagedBatch:
    """A batch on its way to the device."""

    batch: DeviceBatch
    versions: list[int]
    seconds: float


@dataclass(frozen=True)
class _Begun:
    """An update under way."""

    began: PendingUpdate
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
        self._stager = Stager(device, threads, self._learner.pad_to_buckets)
        self._staged, self._begun = dict[int, StagedBatch](), deque[_Begun]()
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
        self._staged[number] = StagedBatch(batch, versions, time.perf_counter() - began)

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

    def sample(self) -> RolloutPreview | None:
        """Of what was learnt from lately; None before the first batch."""
        learner = self._learner
        return (
            None
            if self._column is None
            else sample(learner.agent, self._column, learner.device, learner.pad_to_buckets)
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint: after the updates that were begun."""
        while self._begun:
            time.sleep(0.001)
        return self._learner.state()
