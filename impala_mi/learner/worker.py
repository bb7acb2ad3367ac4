"""The learner as a Ray process."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.learner.batching import stack
from impala_mi.learner.update import Counters, Learner
from impala_mi.machine import default_threads, keep_freed_memory
from impala_mi.types import Transitions

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class UpdateResult:
    """What the driver learns of an update."""

    counters: Counters
    metrics: dict[str, float]
    weights: ray.ObjectRef[Weights] | None
    """Of the new version; None where the update was skipped."""


class _Learner:
    def __init__(self, config: Config, state: dict[str, Any] | None) -> None:
        keep_freed_memory()
        torch.set_num_threads(config.learner.num_threads or default_threads())
        suite = make_suite(config.env)
        device = torch.device("cuda" if config.learner.num_gpus else "cpu")
        self._learner = Learner(config, suite.spaces, suite.action_repeat, device)
        if state is not None:
            self._learner.load_state(state)
        self._weights = ray.put(self._learner.weights())

    def start(self) -> UpdateResult:
        """The counters and weights to begin with."""
        return UpdateResult(self._learner.counters, {}, self._weights)

    def update(self, versions: list[int], *unrolls: Transitions) -> UpdateResult:
        """Learn from unrolls that weights of `versions` played."""
        began, cpu = time.perf_counter(), time.process_time()
        version = self._learner.counters.version
        lags = [version - v for v in versions]
        batch = stack(unrolls, self._learner.device)
        stacked = time.perf_counter()
        metrics = self._learner.update(batch)
        weights = None
        if self._learner.counters.version != version:
            self._weights = weights = ray.put(self._learner.weights())  # the old version's last owner lets go
        metrics |= {
            "lag_mean": float(np.mean(lags)),
            "lag_max": float(max(lags)),
            "time/stack_s": stacked - began,
            "time/update_s": time.perf_counter() - began,
            "time/learner_cpu_s": time.process_time() - cpu,
        }
        return UpdateResult(self._learner.counters, metrics, weights)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self._learner.state()


class LearnerProcess:
    """A typed handle of the learner."""

    def __init__(self, config: Config, state: dict[str, Any] | None, num_cpus: float) -> None:
        remote = ray.remote(_Learner).options(num_cpus=num_cpus, num_gpus=config.learner.num_gpus, max_restarts=0)
        self._handle: Any = remote.remote(config, state)

    def start(self) -> ray.ObjectRef[UpdateResult]:
        """Reference of an `UpdateResult` without metrics."""
        return self._handle.start.remote()

    def update(self, versions: list[int], unrolls: list[ray.ObjectRef[Transitions]]) -> ray.ObjectRef[UpdateResult]:
        """Reference of an `UpdateResult`."""
        return self._handle.update.remote(versions, *unrolls)

    def state(self) -> ray.ObjectRef[dict[str, Any]]:
        """Reference of the state for a checkpoint, after the updates asked for so far."""
        return self._handle.state.remote()

    def kill(self) -> None:
        """End the process."""
        ray.kill(self._handle)
