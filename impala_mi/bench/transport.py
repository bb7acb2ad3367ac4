"""From actor to learner: an unroll through the object store, and its join into a batch."""

import time
from typing import Any

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import ray

from impala_mi.bench.measure import per_frame
from impala_mi.bench.parts import random_unrolls
from impala_mi.bench.report import Row
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
        """Seconds of joining them."""
        began = time.perf_counter()
        stack(unrolls)
        return time.perf_counter() - began


def transport(config: Config, suite: Suite, seconds: float) -> Row:
    """Batches from one actor to the learner, one after the other."""
    with running_ray(config, suite):
        remote: Any = ray.remote
        sender = remote(_Sender).options(num_cpus=1).remote(config, suite.spaces)
        receiver = remote(_Receiver).options(num_cpus=1).remote()
        joins: list[float] = []

        def one() -> None:
            unrolls = [sender.send.remote() for _ in range(config.rollouts_per_batch)]
            joins.append(ray.get(receiver.receive.remote(*unrolls)))

        frames = config.steps_per_update
        cost = per_frame(one, frames, seconds)
    data = random_unrolls(suite.spaces, config, config.learner.unroll_length, config.actors.envs)
    arrays = (*data.inputs, data.action, data.logits, data.reward, data.terminated, data.truncated, *data.state)
    size = sum(a.nbytes for a in arrays) * config.rollouts_per_batch
    return {
        "unrolls": config.learner.batch_size, "MB/batch": size / 1e6, "MB/s": size / (cost.wall_us * frames),
        "ms/batch": cost.wall_us * frames / 1e3, "of it joining": 1e3 * sum(joins) / len(joins),
        "cpu us/frame": cost.cpu_us,
    }  # fmt: skip
