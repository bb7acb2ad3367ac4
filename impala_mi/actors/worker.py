"""The actor as a Ray process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch

from impala_mi.actors.rollout import Rollout
from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.errors import TrainingError
from impala_mi.types import Transitions, UnrollInfo

Weights = dict[str, np.ndarray]


class _Actor:
    def __init__(self, config: Config, index: int, segment: Sequence[int]) -> None:
        torch.set_num_threads(1)  # processes are the parallelism
        self._broken: TrainingError | None = None
        try:
            self._rollout = Rollout(config, make_suite(config.env), index, segment)
        except TrainingError as e:  # Ray would not tell it from other deaths of an actor that starts
            self._broken = e

    def unroll(self, weights: list[ray.ObjectRef[Weights]], version: int) -> tuple[UnrollInfo, Transitions]:
        """Play one unroll in each environment with weights no older than `version`.

        The reference comes in a list so that Ray fetches the weights only when this actor asks.
        """
        if self._broken is not None:
            raise self._broken
        if version != self._rollout.version:
            self._rollout.load(ray.get(weights[0]), version)
        unroll = self._rollout.unroll()
        return unroll.info, unroll.data

    def start(self, segment: Sequence[int]) -> None:
        """Begin new episodes everywhere."""
        self._rollout.start(segment)

    def close(self) -> None:
        """Free the environments."""
        if self._broken is None:
            self._rollout.close()


class ActorProcess:
    """A typed handle of one actor."""

    def __init__(self, config: Config, index: int, segment: Sequence[int], num_cpus: float) -> None:
        self.index = index
        remote = ray.remote(_Actor).options(num_cpus=num_cpus, max_restarts=0)
        self._handle: Any = remote.remote(config, index, segment)

    def unroll(
        self, weights: ray.ObjectRef[Weights], version: int
    ) -> tuple[ray.ObjectRef[UnrollInfo], ray.ObjectRef[Transitions]]:
        """References of the info and the transitions of one unroll."""
        info, data = self._handle.unroll.options(num_returns=2).remote([weights], version)
        return info, data

    def start(self, segment: Sequence[int]) -> ray.ObjectRef[None]:
        """See `Rollout.start`."""
        return self._handle.start.remote(segment)

    def close(self) -> ray.ObjectRef[None]:
        """Free the environments before `kill`."""
        return self._handle.close.remote()

    def kill(self) -> None:
        """End the process."""
        ray.kill(self._handle)
