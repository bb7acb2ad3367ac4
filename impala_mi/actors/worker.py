"""The actor as a Ray process."""

import contextlib
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from impala_mi.actors.inference import Batcher, Inference, InferenceLost, Reply, Request
from impala_mi.actors.rollout import Rollout
from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.host.threads import default_threads, keep_freed_memory
from impala_mi.types import Fault, Transitions, UnrollInfo

Weights = dict[str, np.ndarray]

INFERENCE_TIMEOUT_S = 120.0
"""After which an inference worker counts as lost; the first batch on a GPU takes long."""


class WeightsLost(Exception):
    """Weights went with their node; the actor is well."""


class _Actor:
    def __init__(self, config: Config, index: int) -> None:
        keep_freed_memory()
        self._rollout = Rollout(config, make_suite(config.env), index)
        self._broken: Exception | None = None

    def unroll(
        self, weights: list[ray.ObjectRef[Weights]], version: int, worker: Any
    ) -> tuple[UnrollInfo, Transitions]:
        """Play one unroll in each environment with weights no older than `version`, or as `worker` says.

        The reference comes in a list so that Ray fetches the weights only when this actor asks.
        """
        if self._broken is not None:
            raise self._broken
        torch.set_num_threads(1)  # processes are the parallelism
        if worker is not None:
            unroll = self._rollout.unroll(functools.partial(_ask, worker))
        else:
            if version != self._rollout.version:
                try:
                    newest = ray.get(weights[0])
                except ray.exceptions.ObjectLostError as e:
                    raise WeightsLost(str(e).strip().splitlines()[0]) from None
                self._rollout.load(newest, version)
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
    def placed(self) -> str:
        """The node on which this process lives."""
        return ray.get_runtime_context().get_node_id()

    @ray.method(concurrency_group="control")
    def take_faults(self) -> list[tuple[int, Fault]]:
        """Faults that no unroll has brought yet."""
        return self._rollout.take_faults()

    @ray.method(concurrency_group="control")
    def interrupt(self) -> None:
        """Have what plays fail soon."""
        self._rollout.interrupt()


def _ask(worker: Any, request: Request) -> Reply:
    try:
        return ray.get(worker.act.remote(request), timeout=INFERENCE_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        raise InferenceLost(f"no answer in {INFERENCE_TIMEOUT_S:g} s") from None
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as e:
        raise InferenceLost(str(e).strip().splitlines()[-1]) from None


class _InferenceWorker:
    def __init__(self, config: Config, seed: int, groups: int) -> None:
        keep_freed_memory()
        threads = config.inference.num_threads or default_threads()
        spaces = make_suite(config.env).spaces
        device = torch.device("cuda" if config.inference.num_gpus else "cpu")
        self._inference = Inference(config, spaces, device, seed)
        self._loaded = threading.Event()

        def infer(requests: Sequence[Request]) -> list[Reply]:
            torch.set_num_threads(threads)
            return self._inference(requests)

        # Of two groups of an actor one steps while the other asks.
        self._batcher = Batcher(infer, (groups + 1) // 2, config.inference.wait_ms / 1000)

    def load(self, weights: Weights, version: int) -> None:
        """See `Inference.load`."""
        self._inference.load(weights, version)
        self._loaded.set()

    def act(self, request: Request) -> Reply:
        """Wait for a batch that holds this request."""
        self._loaded.wait()
        return self._batcher(request)


class InferenceGroup:
    """The processes that act for all actors; an actor has one of them.

    Args:
        config: the run's configuration.
        actors: number of actors.
        placement: of the workers, from `place`.
    """

    def __init__(self, config: Config, actors: int, placement: PlacementGroup) -> None:
        self._config, self._placement = config, placement
        workers = config.inference.workers
        self._groups = [2 * len(range(i, actors, workers)) for i in range(workers)]
        self._starts = [0] * workers
        self._workers = [self._start(i) for i in range(workers)]

    def worker_of(self, actor: int) -> Any:
        """Handle for `ActorProcess.unroll`."""
        return self._workers[actor % len(self._workers)]

    def load(self, weights: ray.ObjectRef[Weights], version: int) -> None:
        """Have all act with these weights as soon as they have them."""
        for worker in self._workers:
            worker.load.remote(weights, version)

    def replace(self, actor: int, lost: Any, weights: ray.ObjectRef[Weights], version: int) -> int | None:
        """Put another in the place of this actor's worker; its number, or None where `lost` was replaced before."""
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


class ActorProcess:
    """A typed handle of one actor, which starts its environments at once."""

    def __init__(self, config: Config, index: int, segment: Sequence[int]) -> None:
        self.index = index
        # The calls of the control group are answered while the others play.
        remote: Any = ray.remote  # its types do not know concurrency_groups
        made = remote(concurrency_groups={"control": 1}, max_restarts=0)(_Actor)
        placed = made.options(num_cpus=config.actors.num_cpus, scheduling_strategy="SPREAD")
        self._handle = placed.remote(config, index)
        self.start(segment)

    def unroll(
        self, weights: ray.ObjectRef[Weights], version: int, worker: Any = None
    ) -> tuple[ray.ObjectRef[UnrollInfo], ray.ObjectRef[Transitions]]:
        """References of the info and the transitions of one unroll; `worker` acts where inference is central."""
        info, data = self._handle.unroll.options(num_returns=2).remote([weights], version, worker)
        return info, data

    def start(self, segment: Sequence[int]) -> ray.ObjectRef[None]:
        """See `Rollout.start`."""
        return self._handle.start.remote(segment)

    def placed(self) -> ray.ObjectRef[str]:
        """Reference of the node on which the process lives, as soon as it does."""
        return self._handle.placed.remote()

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
