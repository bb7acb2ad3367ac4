"""Central inference as Ray processes: workers that act for the actors."""

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from impala_mi.actors.inference import Batcher, Inference, Reply, Request
from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.host.threads import default_threads, keep_freed_memory
from impala_mi.nn.precision import compute_with
from impala_mi.types import Weights


class _InferenceWorker:
    def __init__(self, config: Config, seed: int, groups: int) -> None:
        keep_freed_memory()
        threads = config.inference.num_threads or default_threads()
        spaces = make_suite(config.env).spaces
        device = torch.device("cuda" if config.inference.num_gpus else "cpu")
        self._inference = Inference(config, spaces, device, seed)
        self._loaded = threading.Event()

        def infer(requests: Sequence[Request]) -> list[Reply]:
            compute_with(threads)
            return self._inference(requests)

        # An actor has two groups of environments: one steps while the other asks.
        self._batcher = Batcher(infer, (groups + 1) // 2, config.inference.wait_ms / 1000)

    def load(self, weights: Weights, version: int) -> None:
        """See `Inference.load`."""
        self._inference.load(weights, version)
        self._loaded.set()

    def act(self, request: Request) -> Reply:
        """Reply to a request, which shares a batch with others."""
        self._loaded.wait()
        return self._batcher(request)


class InferenceGroup:
    """The inference workers; each actor is assigned to one of them.

    Args:
        config: the run's configuration.
        actors: number of actors.
        placement: resources of the workers, from `reserve`.
    """

    def __init__(self, config: Config, actors: int, placement: PlacementGroup) -> None:
        self._config, self._placement = config, placement
        workers = config.inference.workers
        self._groups = [2 * len(range(i, actors, workers)) for i in range(workers)]
        self._starts = [0] * workers
        self._workers = [self._start(i) for i in range(workers)]

    def worker_of(self, actor: int) -> Any:
        """Worker that acts for an actor, for `ActorProcess.unroll`."""
        return self._workers[actor % len(self._workers)]

    def load(self, weights: ray.ObjectRef[Weights], version: int) -> None:
        """Have all workers act with these weights as soon as they have fetched them."""
        for worker in self._workers:
            worker.load.remote(weights, version)

    def replace(self, actor: int, lost: Any, weights: ray.ObjectRef[Weights], version: int) -> int | None:
        """Replace an actor's worker, and return its number; None if `lost` has been replaced before."""
        i = actor % len(self._workers)
        if self._workers[i] is not lost:
            return None
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(lost)
        self._starts[i] += 1
        self._workers[i] = self._start(i)
        self._workers[i].load.remote(weights, version)
        return i

    def kill(self) -> None:
        """End the processes."""
        for worker in self._workers:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(worker)

    def _start(self, i: int) -> Any:
        config, groups = self._config, self._groups[i]
        seed = np.random.SeedSequence([config.seed, self._starts[i]], spawn_key=(2**31 + 1, i))
        made: Any = ray.remote(_InferenceWorker).options(
            num_cpus=1,
            num_gpus=config.inference.num_gpus,
            max_restarts=0,
            max_concurrency=groups + 2,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=i),
        )
        return made.remote(config, int(seed.generate_state(1, np.uint64)[0]) >> 1, groups)
