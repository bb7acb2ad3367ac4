"""Ray process of one learner rank."""

import math
import socket
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import ray
import torch

from impala_mi.config import Config, LearnerConfig
from impala_mi.envs.suites import make_suite
from impala_mi.host.threads import default_threads
from impala_mi.learner.distributed import join, listen
from impala_mi.learner.pipeline import UpdatePipeline, UpdateResult
from impala_mi.learner.preview import one_column, preview
from impala_mi.learner.transfer import Stager
from impala_mi.learner.update import Learner
from impala_mi.nn.precision import compute_with
from impala_mi.types import RolloutPreview, Transitions, Weights

PREVIEW_EVERY_S = 60.0
"""Seconds between the copies of one environment's unroll from which previews are made."""
PREVIEW_TIMEOUT_S = 10.0
"""Seconds that the driver waits for a preview."""


def _own_ip() -> str:
    """Address of this node in the cluster's network, or loopback if Ray was started by the run."""
    node_id = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == node_id]
    return str(node["NodeManagerAddress"])


class _Learner:
    """One rank; Ray calls `stage`, `begin` and `finish` from a thread each, see `UpdatePipeline`."""

    def __init__(self, config: Config, rank: int) -> None:
        self._config, self._rank = config, rank
        self._listener: socket.socket | None = None
        self._column: Transitions | None = None
        self._column_at, self._columns = -math.inf, 0

    def address(self) -> tuple[str, int]:
        """Address where rank 0 waits for the others: loopback, or the network of the cluster if there is one."""
        ip = _own_ip()
        self._listener, port = listen(ip)
        return ip, port

    def start(
        self, state: dict[str, Any] | None, address: tuple[str, int] | None
    ) -> tuple[UpdateResult, Weights | None]:
        """Join the other ranks and continue from `state`; returns the counters and weights to begin with."""
        config, size = self._config, self._config.learner.size
        threads = config.learner.num_threads or max(1, default_threads() // size)
        compute_with(threads)
        device = torch.device("cuda" if config.learner.num_gpus else "cpu")
        if address is not None:
            # Longer than the driver's timeout, after which it replaces all ranks.
            timeout = timedelta(seconds=config.learner.timeout_s + 60)
            join(self._rank, size, *address, _own_ip(), self._listener, device, timeout)
        suite = make_suite(config.env)
        self._learner = Learner(config, suite.spaces, suite.action_repeat, device, size, threads)
        if state is not None:
            self._learner.load_state(state)
        self._pipeline = UpdatePipeline(self._learner, Stager(device, threads, self._learner.pad_to_buckets).stage)
        return self._initial_result()

    def load_member(
        self, state: dict[str, Any], hyperparameters: LearnerConfig
    ) -> tuple[UpdateResult, Weights | None]:
        """Continue from another state with other hyperparameters, while no update is in flight; see `start`."""
        self._pipeline.load_member(state, hyperparameters)
        return self._initial_result()

    def _initial_result(self) -> tuple[UpdateResult, Weights | None]:
        """Counters and weights before the first update."""
        weights = None if self._rank else self._learner.weights()
        return UpdateResult(replace(self._learner.counters), {}, True), weights

    def hyperparameters(self) -> LearnerConfig:
        """Hyperparameters in force."""
        return self._learner.config.learner

    def stage(self, number: int, versions: list[int], *rollouts: Transitions) -> None:
        """Start the copy of a batch to the device; weights of `versions` acted in its rollouts."""
        now = time.perf_counter()
        self._pipeline.stage(number, versions, rollouts)
        if not self._rank and now - self._column_at > PREVIEW_EVERY_S:
            width = rollouts[0].action.shape[1]
            actor, column = divmod(self._columns % (len(rollouts) * width), width)
            self._column, self._column_at = one_column(rollouts[actor], column), now
            self._columns += 1

    def begin(self, number: int, *_staged: None) -> int:
        """Queue an update on the device, after all ranks have staged their parts of the batch."""
        return self._pipeline.begin(number)

    def finish(self, number: int) -> tuple[UpdateResult, Weights | None]:
        """Wait for an update; returns its result and, from rank 0, the new weights."""
        result, weights = self._pipeline.finish(number)
        publish = result.published and not self._rank
        return result, {name: tensor.numpy() for name, tensor in weights.items()} if publish else None

    def alive(self) -> None:
        """Answer, to show that the process runs."""

    def preview(self) -> RolloutPreview | None:
        """Preview of a recent rollout, or None before the first batch."""
        learner, column = self._learner, self._column
        return None if column is None else preview(learner.agent, column, learner.device, learner.pad_to_buckets)

    def state(self) -> dict[str, Any]:
        """State for a checkpoint, after the updates that have begun."""
        return self._pipeline.state()
