"""Thousands of actors that do not play: what saturates first in everything but the networks and the games?

The driver's loop, the queues, the object store, the staging of batches, the publication of weights and the metrics
are the real ones. An actor of the simulation hands in unrolls of real size at a given rate; many share a process.
The learner stacks the batches and publishes weights of real size, and computes nothing.
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
from impala_mi.bench.measure import cpu_seconds, tree
from impala_mi.bench.parts import random_unrolls
from impala_mi.bench.report import Row
from impala_mi.config import Config, build
from impala_mi.envs.base import Suite
from impala_mi.errors import TrainingError
from impala_mi.host.signals import StopSignal
from impala_mi.host.threads import cores, keep_freed_memory
from impala_mi.learner.group import LearnerGroup
from impala_mi.learner.update import PendingUpdate
from impala_mi.learner.worker import _Learner
from impala_mi.runs.folder import RunFolder
from impala_mi.training.trainer import Trainer
from impala_mi.types import Episode, Fault, RolloutInfo, Transitions, Weights

PER_HOST = 250
"""Actors of the simulation that share a process."""


ROLES = ("driver", "hosts", "learner", "ray")


class _Host:
    """Plays many actors: a call of each waits until its next unroll is due."""

    def __init__(self, config: Config, suite: Suite, unrolls_per_s: float) -> None:
        keep_freed_memory()
        self._data = random_unrolls(suite.spaces, config, config.learner.unroll_length, config.actors.envs)
        self._period, self._levels = 1 / unrolls_per_s, len(suite.levels)
        self._due: dict[int, float] = {}
        self._loading, self._version = threading.Lock(), -1

    def unroll(
        self, actor: int, weights: list[ray.ObjectRef[Weights]], version: int
    ) -> tuple[RolloutInfo, Transitions]:
        with self._loading:  # a node fetches them once for all of its actors
            if version > self._version:
                ray.get(weights[0])
                self._version = version
        now = time.monotonic()
        due = self._due.get(actor, now + self._period * (actor % 97) / 97)  # they do not all begin together
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
    """One of a host's."""

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
    """Stacks and publishes, and does not learn."""

    def start(self, state: Any, address: Any) -> Any:
        result = super().start(state, address)
        steps = self._config.steps_per_update
        self._learner.begin = lambda batch: PendingUpdate(torch.zeros(6), 0.0, steps, {})  # type: ignore[method-assign]
        return result


def scale(config: Config, suite: Suite, actors: int, frames_per_s: float, seconds: float) -> Row:
    """So many actors of the configuration, each playing so many agent steps a second, for a while."""
    changed = [f"actors.count={actors}", "actors.per_level=null", "actors.num_cpus=0.0001", "learner.num_gpus=0",
               "learner.cuda_graphs=false", "train.env_frames=1e15", "train.log_every_s=1.0"]  # fmt: skip
    config = build("scale", config.model_dump(), changed)
    unroll = config.learner.unroll_length * config.actors.envs
    with (
        tempfile.TemporaryDirectory(prefix="impala-mi-bench-") as folder,
        StopSignal().installed() as stop,
        running_ray(config, suite),
    ):
        made: Any = ray.remote(_Host)
        hosts = [
            made.options(num_cpus=0, max_concurrency=PER_HOST + 16).remote(config, suite, frames_per_s / unroll)
            for _ in range(-(-actors // PER_HOST))
        ]
        ray.get([host.node.remote() for host in hosts])
        records: list[dict[str, float]] = []
        first: list[tuple[float, dict[psutil.Process, float]]] = []

        def report(record: Mapping[str, float]) -> None:
            if record["time_s"] <= seconds / 3:
                return
            if not records:
                first.append((time.monotonic(), cpu_seconds(tree(me))))
            records.append(dict(record))

        me = psutil.Process().pid
        trainer = Trainer(
            config, suite, RunFolder(Path(folder)), None, report, stop,
            make_actor=lambda _, index, __: _SimulatedActor(hosts, index),
            make_learner=lambda config, state, place: LearnerGroup(config, state, place, _IdleLearner),
        )  # fmt: skip
        timer = threading.Timer(seconds, lambda: setattr(stop, "name", "SIGALRM"))
        timer.start()
        try:
            trainer.run()
            if len(records) < 2:
                raise TrainingError(f"no update in {seconds:g} s; measure for longer, or at a higher rate")
            began, before = first[0]
            used = _by_role(before, cpu_seconds(tree(me)), time.monotonic() - began)
        finally:
            trainer.close()
            timer.cancel()
    since, last, lag = records[0], records[-1], [r["lag_mean"] for r in records if "lag_mean" in r]
    wall = max(last["time_s"] - since["time_s"], 1e-9)
    fps = (last["env_frames"] - since["env_frames"]) / wall / suite.action_repeat
    share, handed_in = fps / (actors * frames_per_s), fps / unroll
    return {
        "actors": actors, "asked frames/s": actors * frames_per_s, "frames/s": fps, "share": share,
        "hand-ins/s": handed_in, "MB/s": handed_in * _bytes(config, suite) / 1e6,
        "lag": sum(lag) / max(1, len(lag)),
        **{f"{role} cores": busy for role, busy in used.items()},
        "driver ms/hand-in": 1e3 * used["driver"] / max(handed_in, 1e-9), "full": _full(share, used, len(hosts)),
    }  # fmt: skip


def _full(share: float, used: Mapping[str, float], hosts: int) -> str:
    """What cannot do more, where less is handed in than was asked for."""
    if share > 0.95:
        return "nothing"
    limits = {"driver": 1, "learner": 1, "hosts": hosts}  # an interpreter has one core
    full = [role for role, limit in limits.items() if used[role] > 0.85 * limit]
    return ", ".join([*full, *(["all cores"] if sum(used.values()) > 0.9 * cores() else [])]) or "unknown"


def _bytes(config: Config, suite: Suite) -> int:
    """Of one hand-in."""
    data = random_unrolls(suite.spaces, config, config.learner.unroll_length, config.actors.envs)
    return sum(a.nbytes for a in (*data.inputs, data.action, data.logits, data.reward, *data.state))


def _by_role(
    before: dict[psutil.Process, float], after: dict[psutil.Process, float], wall: float
) -> dict[str, float]:
    """Cores that were busy: with the driver, the simulated actors, the learner, and Ray's own processes."""
    me, used = psutil.Process().pid, dict.fromkeys(ROLES, 0.0)
    for p, seconds in after.items():
        with contextlib.suppress(psutil.Error):
            title = " ".join(p.cmdline()[:1])
            role = "driver" if p.pid == me else "hosts" if "_Host" in title else (
                "learner" if "_IdleLearner" in title else "ray"
            )  # fmt: skip
            used[role] += seconds - before.get(p, 0.0)
    return {role: used[role] / wall for role in ROLES}
