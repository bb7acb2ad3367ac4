"""The actor as a Ray process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch

from impala_mi.actors.rollout import Rollout
from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.machine import keep_freed_memory
from impala_mi.types import Fault, Transitions, UnrollInfo

Weights = dict[str, np.ndarray]


class _Actor:
    def __init__(self, config: Config, index: int) -> None:
        keep_freed_memory()
        self._rollout = Rollout(config, make_suite(config.env), index)
        self._broken: Exception | None = None

    def unroll(self, weights: list[ray.ObjectRef[Weights]], version: int) -> tuple[UnrollInfo, Transitions]:
        """Play one unroll in each environment with weights no older than `version`.

        The reference comes in a list so that Ray fetches the weights only when this actor asks.
        """
        if self._broken is not None:
            raise self._broken
        torch.set_num_threads(1)  # processes are the parallelism
        if version != self._rollout.version:
            self._rollout.load(ray.get(weights[0]), version)
        unroll = self._rollout.unroll()
        return unroll.info, unroll.data

    def start(self, segment: Sequence[int]) -> None:
        """Begin new episodes everywhere; what fails is raised by the next unroll, for which the driver waits."""
        try:
            self._rollout.start(segment)
        except Exception as e:
            self._broken = e

    def close(self) -> None:
        """Free the environments."""
        self._rollout.close()

    @ray.method(concurrency_group="control")
    def take_faults(self) -> list[tuple[int, Fault]]:
        """Faults that no unroll has brought yet."""
        return self._rollout.take_faults()

    @ray.method(concurrency_group="control")
    def interrupt(self) -> None:
        """Have what plays fail soon."""
        self._rollout.interrupt()


class ActorProcess:
    """A typed handle of one actor, which starts its environments at once."""

    def __init__(self, config: Config, index: int, segment: Sequence[int], num_cpus: float) -> None:
        self.index = index
        # The calls of the control group are answered while the others play.
        remote: Any = ray.remote  # its types do not know concurrency_groups
        made = remote(concurrency_groups={"control": 1}, num_cpus=num_cpus, max_restarts=0)(_Actor)
        self._handle = made.remote(config, index)
        self.start(segment)

    def unroll(
        self, weights: ray.ObjectRef[Weights], version: int
    ) -> tuple[ray.ObjectRef[UnrollInfo], ray.ObjectRef[Transitions]]:
        """References of the info and the transitions of one unroll."""
        info, data = self._handle.unroll.options(num_returns=2).remote([weights], version)
        return info, data

    def start(self, segment: Sequence[int]) -> ray.ObjectRef[None]:
        """See `Rollout.start`."""
        return self._handle.start.remote(segment)

    def take_faults(self) -> ray.ObjectRef[list[tuple[int, Fault]]]:
        """See `Rollout.take_faults`."""
        return self._handle.take_faults.remote()

    def close(self) -> ray.ObjectRef[None]:
        """Interrupt what plays and free the environments, before `kill`."""
        self._handle.interrupt.remote()
        return self._handle.close.remote()

    def kill(self) -> None:
        """End the process."""
        ray.kill(self._handle)
