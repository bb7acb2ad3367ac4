"""Cost of the way from actor to learner: unrolls through the object store, stacked into a batch."""

import time
from typing import Any

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import ray

from impala_mi.bench.measure import per_frame
from impala_mi.bench.parts import num_bytes, random_unrolls
from impala_mi.bench.table import Row
from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.host.threads import keep_freed_memory
from impala_mi.learner.batching import stack
from impala_mi.types import Spaces, Transitions


class _Sender:
    def __init__(self, config: Config, spaces: Spaces) -> None:
        keep_freed_memory()
        self._data = random_unrolls(spaces, config, config.learner.unroll_length, config.actors.envs)

    def send(self) -> Transitions:
        return self._data


class _Receiver:
    def __init__(self) -> None:
        keep_freed_memory()

    def receive(self, *unrolls: Transitions) -> float:
        """Stack the unrolls and return the seconds that took."""
        start = time.perf_counter()
        stack(unrolls)
        return time.perf_counter() - start


def measure_transport(config: Config, suite: Suite, seconds: float) -> Row:
    """Cost of batches from one actor to the learner, one batch after another."""
    with running_ray(config, suite):
        remote: Any = ray.remote
        sender = remote(_Sender).options(num_cpus=1).remote(config, suite.spaces)
        receiver = remote(_Receiver).options(num_cpus=1).remote()
        stack_s: list[float] = []

        def send_batch() -> None:
            unrolls = [sender.send.remote() for _ in range(config.rollouts_per_batch)]
            stack_s.append(ray.get(receiver.receive.remote(*unrolls)))

        frames = config.steps_per_update
        cost = per_frame(send_batch, frames, seconds)
    data = random_unrolls(suite.spaces, config, config.learner.unroll_length, config.actors.envs)
    size = num_bytes(data) * config.rollouts_per_batch
    return {
        "unrolls": config.learner.batch_size, "MB/batch": size / 1e6, "MB/s": size / (cost.wall_us * frames),
        "ms/batch": cost.wall_us * frames / 1e3, "ms stacking": 1e3 * sum(stack_s) / len(stack_s),
        "cpu us/frame": cost.cpu_us,
    }  # fmt: skip
