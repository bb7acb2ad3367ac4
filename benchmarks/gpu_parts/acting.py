"""Part i: batched acting from host to host, and a whole run without Ray."""

import multiprocessing
import queue
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gpu_parts.machine import synchronize
from gpu_parts.part import Run
from gpu_parts.work import config_of, memory_freed, overrides_of, spaces_of, unrolls
from impala_mi.actors.inference import Batcher, Inference, Reply, Request
from impala_mi.actors.rollout import FIRST_SEED_EPOCH, RolloutWorker
from impala_mi.config import Config, build
from impala_mi.envs.suites import make_suite
from impala_mi.host.threads import cores, default_threads
from impala_mi.learner.transfer import Stager
from impala_mi.learner.update import Learner
from impala_mi.nn.precision import compute_with
from impala_mi.types import AgentInput

WAIT_S = 0.002
"""Longest that a request waits for others to share its batch."""


def acting(run: Run) -> None:
    """Frames per second of acting by batch size, then a whole run."""
    sizes = (4, 16) if run.small else (16, 64, 256, 512, 1024, 2048, 4096, 8192)
    for torso in ("shallow", "deep"):
        for precision in ("auto",) if run.small else ("bfloat16", "float32"):
            for batch in sizes:
                if run.left() < (5 if run.small else 25):
                    run.note(f"{torso}, {precision}, batch {batch}: not reached in time.")
                    continue
                try:
                    with memory_freed(run):
                        seconds = _act_seconds(run, torso, precision, batch)
                except Exception:
                    run.note(
                        f"{torso}, {precision}, batch {batch} failed:\n```\n{traceback.format_exc()[-2000:]}\n```"
                    )
                    continue
                run.row("acting, host to host", torso=torso, precision=precision, batch=batch,
                        **{"frames/s": batch / seconds, "ms": 1e3 * seconds})  # fmt: skip
    whole_run(run, seconds=min(3.0 if run.small else 12.0, run.left() - 8))


def _act_seconds(run: Run, torso: str, precision: str, batch: int) -> float:
    config = config_of(run, 4, [*overrides_of(torso, "mi_context", "float32"), f"actors.precision={precision}"])
    inference = Inference(config, spaces_of(run), run.device, 0)
    data = unrolls(spaces_of(run), config, batch)
    inputs = AgentInput(*(array[1] for array in data.inputs))
    for _ in range(3):
        inference([Request((0, 0), inputs, begins=False)])
    synchronize(run.device)
    start, calls = time.perf_counter(), 0
    while calls < 2 or (not run.small and time.perf_counter() - start < 0.3):
        inference([Request((0, 0), inputs, begins=False)])
        calls += 1
    return (time.perf_counter() - start) / calls


def play(config: Config, actor: int, groups: Sequence[Connection], results: Connection) -> None:
    """Process of an actor: it asks for actions over `groups` and sends its rollouts over `results`."""
    compute_with(1)

    def infer(request: Request) -> Reply:
        connection = groups[request.group[1]]
        connection.send(request)
        return connection.recv()

    worker = RolloutWorker(config, make_suite(config.env), actor)
    try:
        worker.start(FIRST_SEED_EPOCH)
        while True:
            results.send(worker.collect(infer))
    except (EOFError, BrokenPipeError, ConnectionResetError, OSError):
        pass  # the run is over
    finally:
        worker.close()


class _Clock:
    """Adds up the seconds in which something works."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


class _Actors:
    """Processes that play, threads that answer them, and a queue of their rollouts."""

    def __init__(self, config: Config, count: int, batcher: Batcher, waiting: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._rollouts: queue.Queue[Any] = queue.Queue(waiting)
        self._ends: list[Connection] = []
        self._processes = []
        for actor in range(count):
            pairs = [context.Pipe() for _ in range(3)]  # two groups of environments, and the rollouts
            actor_ends = [pair[1] for pair in pairs]
            process = context.Process(target=play, args=(config, actor, actor_ends[:2], actor_ends[2]), daemon=True)
            process.start()
            self._processes.append(process)
            for connection in actor_ends:
                connection.close()
            ends = [pair[0] for pair in pairs]
            self._ends += ends
            for connection in ends[:2]:
                threading.Thread(target=self._answer, args=(connection, batcher), daemon=True).start()
            threading.Thread(target=self._collect, args=(ends[2],), daemon=True).start()

    def _answer(self, connection: Connection, batcher: Batcher) -> None:
        try:
            while True:
                connection.send(batcher(connection.recv()))
        except (EOFError, OSError):
            pass  # the actor has ended

    def _collect(self, connection: Connection) -> None:
        try:
            while True:
                self._rollouts.put(connection.recv())
        except (EOFError, OSError):
            pass  # the actor has ended

    def take(self, count: int) -> list[Any]:
        """Wait for so many rollouts; raises RuntimeError if an actor has ended or none arrives."""
        taken: list[Any] = []
        latest = time.monotonic() + 60
        while len(taken) < count:
            try:
                taken.append(self._rollouts.get(timeout=1))
            except queue.Empty:
                ended = [process.exitcode for process in self._processes if process.exitcode is not None]
                if ended or time.monotonic() > latest:
                    raise RuntimeError(f"no rollout arrives; exit codes of actors: {ended}") from None
        return taken

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5)


def whole_run(run: Run, seconds: float) -> None:
    """Rollouts of the suite `noise` in processes, central inference and the learner on the device."""
    count = 2 if run.small else max(2, cores() - 2)
    steps, envs, batch = (5, 4, 8) if run.small else (100, 32, 128)
    config = build("gpu", {
        "env": {"suite": "noise"}, "agent": {"torso": "shallow", "head": "mi_context"},
        "actors": {"count": count, "envs": envs, "inference": "central"},
        "learner": {"unroll_length": steps, "batch_size": batch, "num_gpus": 0 if run.small else 1,
                    "learning_rate": 1e-5, "cuda_graphs": not run.small},
    })  # fmt: skip
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, suite.action_repeat, run.device)
    inference, busy = Inference(config, suite.spaces, run.device, 0), _Clock()
    inference.load(learner.weights(), 0)

    def infer(requests: Sequence[Request]) -> list[Reply]:
        with busy:
            return inference(requests)

    actors = _Actors(config, count, Batcher(infer, count, WAIT_S), 2 * config.rollouts_per_batch)
    try:
        _learn(run, learner, inference, actors, busy, seconds)
    finally:
        actors.close()


def _learn(run: Run, learner: Learner, inference: Inference, actors: _Actors, busy: _Clock, seconds: float) -> None:
    """Learn from the rollouts for some seconds and add the row."""
    config = learner.config
    stager = Stager(run.device, default_threads(), learner.pad_to_buckets)
    waiting, staging, publishing = _Clock(), _Clock(), _Clock()
    infos: list[Any] = []

    def update() -> None:
        with waiting:
            taken = actors.take(config.rollouts_per_batch)
        infos.extend(rollout.info for rollout in taken)
        with staging:
            batch = stager.stage([rollout.data for rollout in taken]).take()
        learner.update(batch)
        with publishing:
            inference.load(learner.weights(), learner.counters.version)

    for _ in range(1 if run.small else 6):  # warm-up, and the recording of graphs
        update()
    for clock in (waiting, staging, publishing, busy):
        clock.seconds = 0.0
    infos.clear()
    start, updates = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not updates:
        update()
        updates += 1
    wall = time.perf_counter() - start
    lag = learner.counters.version - float(np.mean([info.version for info in infos[-config.rollouts_per_batch :]]))
    stepping, asking = (sum(info.seconds[key] for info in infos) for key in ("step", "act"))
    shares = {
        "learner waits for rollouts": waiting.seconds / wall, "staging": staging.seconds / wall,
        "weights": publishing.seconds / wall, "inference works": busy.seconds / wall,
        "actors wait for actions": asking / max(stepping + asking, 1e-9),
    }  # fmt: skip
    bound = (
        "learner" if shares["learner waits for rollouts"] < 0.1
        else "inference" if shares["inference works"] > 0.8
        else "transport of requests and rollouts" if shares["actors wait for actions"] > 0.5
        else "actors"
    )  # fmt: skip
    run.row(
        "whole run, noise, central inference", actors=config.actors.number(1), envs=config.actors.envs,
        B=config.learner.batch_size, T=config.learner.unroll_length,
        **{"frames/s": updates * config.steps_per_update / wall, "lag": lag, "bound by": bound},
        **{f"{name}, %": 100 * share for name, share in shares.items()},
    )  # fmt: skip
