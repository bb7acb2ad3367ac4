"""Simulation of thousands of actors, which shows what saturates first besides the networks and the games.

The driver's loop, the queues, the object store, the staging of batches, the publication of weights and the metrics
are real. A simulated actor delivers rollouts of real size at a given rate without playing; many share a process.
The learner stacks the batches and publishes weights of real size, but computes no update.
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import ray
import torch

from impala_mi.actors.worker import ActorProcess
from impala_mi.bench.measure import cpu_seconds, process_tree
from impala_mi.bench.parts import num_bytes, random_unrolls
from impala_mi.bench.table import Row
from impala_mi.config import Config, build
from impala_mi.envs.base import Suite
from impala_mi.errors import TrainingError
from impala_mi.host.signals import StopSignal
from impala_mi.host.threads import cores, keep_freed_memory
from impala_mi.learner.group import start_ranks
from impala_mi.learner.update import PendingUpdate, UpdateStats
from impala_mi.learner.worker import _Learner
from impala_mi.runs.folder import RunFolder
from impala_mi.training.trainer import Trainer
from impala_mi.types import Episode, Fault, RolloutInfo, Transitions, Weights

ACTORS_PER_HOST = 250
"""Simulated actors that share a process."""
ROLES = ("driver", "hosts", "learner", "ray")


class _Host:
    """Process of many simulated actors; a call for an actor returns when its next rollout is due."""

    def __init__(self, config: Config, suite: Suite, unrolls_per_s: float) -> None:
        keep_freed_memory()
        self._data = random_unrolls(suite.spaces, config, config.learner.unroll_length, config.actors.envs)
        self._period, self._levels = 1 / unrolls_per_s, len(suite.levels)
        self._due: dict[int, float] = {}
        self._loading, self._version = threading.Lock(), -1

    def unroll(
        self, actor: int, weights: list[ray.ObjectRef[Weights]], version: int
    ) -> tuple[RolloutInfo, Transitions]:
        with self._loading:  # real actors of a node fetch them once, too
            if version > self._version:
                ray.get(weights[0])
                self._version = version
        now = time.monotonic()
        due = self._due.get(actor, now + self._period * (actor % 97) / 97)  # staggers the actors
        self._due[actor] = max(due, now - self._period) + self._period
        time.sleep(max(0.0, due - now))
        seconds = {"act": self._period, "step": 0.0, "cpu": self._period}
        episodes = [Episode(actor % self._levels, 1.0, 100)]
        return RolloutInfo(actor, version, episodes, [], seconds), self._data

    def nothing(self) -> list[tuple[int, Fault]]:
        return []

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()


class _SimulatedActor(ActorProcess):
    """Handle of one simulated actor."""

    def __init__(self, hosts: Sequence[Any], index: int) -> None:
        self.index, self._handle = index, hosts[index % len(hosts)]

    def unroll(
        self, weights: ray.ObjectRef[Weights], version: int, worker: Any = None
    ) -> tuple[ray.ObjectRef[RolloutInfo], ray.ObjectRef[Transitions]]:
        info, data = self._handle.unroll.options(num_returns=2).remote(self.index, [weights], version)
        return info, data

    def placed(self) -> ray.ObjectRef[str]:
        return self._handle.node.remote()

    def take_faults(self) -> ray.ObjectRef[list[tuple[int, Fault]]]:
        return self._handle.nothing.remote()

    def start(self, seed_epoch: Sequence[int]) -> ray.ObjectRef[None]:
        return self._handle.nothing.remote()

    def close(self) -> ray.ObjectRef[None]:
        return self._handle.nothing.remote()

    def kill(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._handle)


class _IdleLearner(_Learner):
    """Learner that stacks batches and publishes weights, but does not learn."""

    def start(self, state: Any, address: Any) -> Any:
        result = super().start(state, address)
        stats = UpdateStats(("loss/total", "learner/grad_norm"), torch.zeros(2))
        pending = PendingUpdate(stats, 0.0, self._config.steps_per_update, {})
        self._learner.begin = lambda batch: pending  # type: ignore[method-assign]
        return result


def measure_scale(config: Config, suite: Suite, actors: int, frames_per_s: float, seconds: float) -> Row:
    """Throughput with `actors` simulated actors, each of which delivers `frames_per_s` agent steps per second."""
    overrides = [f"actors.count={actors}", "actors.per_level=null", "actors.num_cpus=0.0001", "learner.num_gpus=0",
               "learner.cuda_graphs=false", "train.env_frames=1e15", "train.log_every_s=1.0"]  # fmt: skip
    config = build("scale", config.model_dump(), overrides)
    unroll = config.learner.unroll_length * config.actors.envs
    with (
        tempfile.TemporaryDirectory(prefix="impala-mi-bench-") as folder,
        StopSignal().installed() as stop,
        running_ray(config, suite),
    ):
        made: Any = ray.remote(_Host)
        hosts = [
            made.options(num_cpus=0, max_concurrency=ACTORS_PER_HOST + 16).remote(
                config, suite, frames_per_s / unroll
            )
            for _ in range(-(-actors // ACTORS_PER_HOST))
        ]
        ray.get([host.node.remote() for host in hosts])
        records: list[dict[str, float]] = []
        first: list[tuple[float, dict[psutil.Process, float]]] = []

        def report(record: Mapping[str, float]) -> None:
            if record["time_s"] <= seconds / 3:
                return
            if not records:
                first.append((time.monotonic(), cpu_seconds(process_tree(driver_pid))))
            records.append(dict(record))

        driver_pid = psutil.Process().pid
        trainer = Trainer(
            config, suite, RunFolder(Path(folder)), None, report, stop,
            make_actor=lambda _, index, __: _SimulatedActor(hosts, index),
            make_ranks=lambda config, placement: start_ranks(config, placement, _IdleLearner),
        )  # fmt: skip
        timer = threading.Timer(seconds, lambda: setattr(stop, "name", "SIGALRM"))
        timer.start()
        try:
            trainer.run()
            if len(records) < 2:
                raise TrainingError(f"no update in {seconds:g} s; measure longer or at a higher rate")
            start, before = first[0]
            used = _by_role(before, cpu_seconds(process_tree(driver_pid)), time.monotonic() - start)
        finally:
            trainer.close()
            timer.cancel()
    since, last, lag = records[0], records[-1], [r["lag_mean"] for r in records if "lag_mean" in r]
    wall = max(last["time_s"] - since["time_s"], 1e-9)
    fps = (last["env_frames"] - since["env_frames"]) / wall / suite.action_repeat
    share, rollouts = fps / (actors * frames_per_s), fps / unroll
    data = random_unrolls(suite.spaces, config, config.learner.unroll_length, config.actors.envs)
    return {
        "actors": actors, "offered frames/s": actors * frames_per_s, "frames/s": fps, "share": share,
        "rollouts/s": rollouts, "MB/s": rollouts * num_bytes(data) / 1e6,
        "lag": sum(lag) / max(1, len(lag)),
        **{f"{role} cores": busy for role, busy in used.items()},
        "driver ms/rollout": 1e3 * used["driver"] / max(rollouts, 1e-9),
        "saturated": _saturated(share, used, len(hosts)),
    }  # fmt: skip


def _saturated(share: float, used: Mapping[str, float], hosts: int) -> str:
    """Names of the roles that are saturated, if the learner consumes less than the actors offer."""
    if share > 0.95:
        return "nothing"
    limits = {"driver": 1, "learner": 1, "hosts": hosts}  # a Python process uses one core
    roles = [role for role, limit in limits.items() if used[role] > 0.85 * limit]
    return ", ".join([*roles, *(["all cores"] if sum(used.values()) > 0.9 * cores() else [])]) or "unknown"


def _by_role(
    before: dict[psutil.Process, float], after: dict[psutil.Process, float], wall: float
) -> dict[str, float]:
    """Busy cores of the driver, the hosts of simulated actors, the learner, and Ray's own processes."""
    driver_pid, used = psutil.Process().pid, dict.fromkeys(ROLES, 0.0)
    for p, seconds in after.items():
        with contextlib.suppress(psutil.Error):
            title = " ".join(p.cmdline()[:1])
            role = "driver" if p.pid == driver_pid else "hosts" if "_Host" in title else (
                "learner" if "_IdleLearner" in title else "ray"
            )  # fmt: skip
            used[role] += seconds - before.get(p, 0.0)
    return {role: used[role] / wall for role in ROLES}
