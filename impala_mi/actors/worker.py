"""An actor as a Ray process, and its typed handle."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import ray

from impala_mi.actors.inference import InferenceLost, Reply, Request
from impala_mi.actors.rollout import RolloutWorker
from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.host.threads import KEEP_FREED_MEMORY, keep_freed_memory
from impala_mi.nn.precision import compute_with
from impala_mi.types import Fault, RolloutInfo, Transitions, Weights

INFERENCE_TIMEOUT_S = 120.0
"""Seconds after which an inference worker counts as lost; the first batch on a GPU takes long."""


class WeightsLost(Exception):
    """Weights were lost with their node; the actor is well."""


class _Actor:
    def __init__(self, config: Config, index: int) -> None:
        keep_freed_memory()
        for name in KEEP_FREED_MEMORY:  # games, which inherit the environment, use memory as they like
            os.environ.pop(name, None)
        self._worker = RolloutWorker(config, make_suite(config.env), index)
        self._broken: Exception | None = None

    def unroll(
        self, weights: list[ray.ObjectRef[Weights]], version: int, worker: Any
    ) -> tuple[RolloutInfo, Transitions]:
        """Play a rollout with weights no older than `version`.

        Args:
            weights: a list of one reference, so that Ray fetches the weights only when this actor asks for them.
            version: version of these weights.
            worker: inference worker that acts instead of this process, or None.
        """
        if self._broken is not None:
            raise self._broken
        compute_with(1)  # processes are the parallelism
        if worker is not None:
            rollout = self._worker.collect(functools.partial(_ask, worker))
        else:
            if version != self._worker.version:
                try:
                    newest = ray.get(weights[0])
                except ray.exceptions.ObjectLostError as e:
                    raise WeightsLost(str(e).strip().splitlines()[0]) from None
                self._worker.load(newest, version)
            rollout = self._worker.collect()
        return rollout.info, rollout.data

    def start(self, seed_epoch: Sequence[int]) -> None:
        """Start new episodes everywhere; the next `unroll` raises the error of a start that failed."""
        try:
            self._worker.start(seed_epoch)
        except Exception as e:
            self._broken = e

    def close(self) -> None:
        """Free the environments."""
        self._worker.close()

    @ray.method(concurrency_group="control")
    def placed(self) -> str:
        """Identifier of the node on which this process lives."""
        return ray.get_runtime_context().get_node_id()

    @ray.method(concurrency_group="control")
    def take_faults(self) -> list[tuple[int, Fault]]:
        """Faults that no rollout has delivered yet."""
        return self._worker.take_faults()

    @ray.method(concurrency_group="control")
    def interrupt(self) -> None:
        """Make environments that are being stepped fail soon."""
        self._worker.interrupt()


def _ask(worker: Any, request: Request) -> Reply:
    try:
        return ray.get(worker.act.remote(request), timeout=INFERENCE_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        raise InferenceLost(f"no answer in {INFERENCE_TIMEOUT_S:g} s") from None
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as e:
        raise InferenceLost(str(e).strip().splitlines()[-1]) from None


class ActorProcess:
    """A typed handle of one actor's process, which starts its environments at once."""

    def __init__(self, config: Config, index: int, seed_epoch: Sequence[int]) -> None:
        self.index = index
        # Calls of the control group are answered while a rollout is in flight.
        remote: Any = ray.remote  # its types do not know concurrency_groups
        made = remote(concurrency_groups={"control": 1}, max_restarts=0)(_Actor)
        placed = made.options(num_cpus=config.actors.num_cpus, scheduling_strategy="SPREAD")
        self._handle = placed.remote(config, index)
        self.start(seed_epoch)

    def unroll(
        self, weights: ray.ObjectRef[Weights], version: int, worker: Any = None
    ) -> tuple[ray.ObjectRef[RolloutInfo], ray.ObjectRef[Transitions]]:
        """References of the info and the transitions of one rollout; see `_Actor.unroll`."""
        info, data = self._handle.unroll.options(num_returns=2).remote([weights], version, worker)
        return info, data

    def start(self, seed_epoch: Sequence[int]) -> ray.ObjectRef[None]:
        """See `RolloutWorker.start`."""
        return self._handle.start.remote(seed_epoch)

    def placed(self) -> ray.ObjectRef[str]:
        """Reference of the node's identifier, which the process answers once it lives."""
        return self._handle.placed.remote()

    def take_faults(self) -> ray.ObjectRef[list[tuple[int, Fault]]]:
        """See `RolloutWorker.take_faults`."""
        return self._handle.take_faults.remote()

    def close(self) -> ray.ObjectRef[None]:
        """Interrupt the rollout in flight and free the environments, before `kill`."""
        self._handle.interrupt.remote()
        return self._handle.close.remote()

    def kill(self) -> None:
        """End the process."""
        ray.kill(self._handle)
