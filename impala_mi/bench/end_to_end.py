"""Cost of training end to end, measured from outside while it runs in processes of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from impala_mi.bench.measure import cpu_seconds, process_tree
from impala_mi.config import Config, build, to_yaml
from impala_mi.errors import TrainingError

START_TIMEOUT_S = 300.0
"""Timeout of the first record of a run."""
WORKERS = (("_Actor", "actors"), ("_InferenceWorker", "inference"), ("_Learner", "learner"))


@dataclass(frozen=True)
class TrainingCost:
    """Speed and cost of a run within the measured window."""

    fps: float
    """Agent steps per second that the learner consumed."""
    stages: dict[str, float]
    """CPU microseconds per frame of games, actors, inference, learner, ray and driver."""
    learner_busy: float
    """Share of the time in which the learner updates."""
    actors_busy: float
    """Share of the time in which an actor acts or steps; otherwise it sends rollouts, loads weights or waits."""
    lag: float
    """Mean policy lag in updates."""
    memory_mb: float
    """Peak proportional set size of the process tree, sampled every 5 s."""
    startup_s: float
    """Seconds until the first record."""

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per frame of the whole process tree."""
        return sum(self.stages.values())


def _stage(process: psutil.Process, driver: int) -> str:
    """The stage a process belongs to: children of actors are games, other children of the driver are Ray."""
    if process.pid == driver:
        return "driver"
    with contextlib.suppress(psutil.Error):
        for p in (process, *process.parents()):
            title = " ".join(p.cmdline()[:1])
            for word, stage in WORKERS:
                if title.startswith("ray::") and word in title:
                    return stage if p == process else "games"
    return "ray"


def memory_mb(processes: list[psutil.Process]) -> float:
    """Sum of the proportional set sizes of the processes."""
    total = 0
    for p in processes:
        with contextlib.suppress(psutil.Error):
            total += p.memory_full_info().pss
    return total / 2**20


class BenchRun:
    """A run of `impala-mi train` and its records."""

    def __init__(self, config: Config, root: Path, overrides: Sequence[str]) -> None:
        values = build("bench", config.model_dump(), [
            f"run.root={root}", "run.name=run", "train.env_frames=1e15", "train.max_time_s=3600",
            "train.log_every_s=1.0", "train.checkpoint_every_s=1e9", *overrides,
        ])  # fmt: skip
        file = root / "bench.yaml"
        file.write_text(to_yaml(values), encoding="utf-8")
        self._log = root / "run" / "metrics.jsonl"
        self._output = open(root / "out.txt", "w+", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "impala_mi", "train", str(file)],
            stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """All records so far; raises `TrainingError` if the run has ended."""
        if self.process.poll() is not None:
            self._output.seek(0)
            raise TrainingError(f"the run ended: {self._output.read().strip()[-500:]}")
        lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True) if self._log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def next_record(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait for a new record; raises `TrainingError` after the timeout."""
        count, deadline = len(self.records()), time.monotonic() + timeout_s
        while len(records := self.records()) <= count:
            if time.monotonic() > deadline:
                raise TrainingError(f"a run wrote no record in {timeout_s:.0f} s")
            time.sleep(0.02)
        return records[-1]

    def close(self) -> None:
        """End the run and its processes."""
        processes = process_tree(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        for p in psutil.wait_procs(processes, timeout=5)[1]:
            with contextlib.suppress(psutil.Error):
                p.kill()
        self._output.close()


@contextlib.contextmanager
def running(config: Config, *overrides: str) -> Iterator[BenchRun]:
    """Train without end, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="impala-mi-bench-") as folder:
        run = BenchRun(config, Path(folder), overrides)
        try:
            yield run
        finally:
            run.close()


def measure_training(config: Config, levels: int, warmup: float, seconds: float) -> TrainingCost:
    """Measure a run for a window of `seconds` that begins `warmup` seconds after its first record.

    Raises `TrainingError` if the run fails.

    Args:
        config: configuration of the run.
        levels: number of levels of its suite.
        warmup: seconds between the first record and the window.
        seconds: length of the window.
    """
    with running(config) as run:
        start = time.monotonic()
        run.next_record(START_TIMEOUT_S)
        startup = time.monotonic() - start
        time.sleep(warmup)
        first, pid = run.next_record(), run.process.pid
        first_in_window, before = len(run.records()), cpu_seconds(process_tree(pid))
        memory, end = 0.0, time.monotonic() + seconds
        while time.monotonic() < end:
            memory = max(memory, memory_mb(process_tree(pid)))  # sampled rarely because it costs CPU time
            time.sleep(min(5.0, max(end - time.monotonic(), 0.0)))
        last, after = run.next_record(), cpu_seconds(process_tree(pid))
        stage_of = {p: _stage(p, pid) for p in after}
        window = run.records()[first_in_window:]
    frames, wall = last["agent_steps"] - first["agent_steps"], last["time_s"] - first["time_s"]
    if not frames:
        raise TrainingError(f"no update in {wall:.0f} s; measure for longer")
    stages: dict[str, float] = {}
    for p, used in after.items():
        stage = stage_of[p]
        stages[stage] = stages.get(stage, 0.0) + 1e6 * (used - before.get(p, 0.0)) / frames

    def mean(key: str) -> float:
        values = [r[key] for r in window if key in r]
        return sum(values) / len(values) if values else 0.0

    updates = (last["updates"] - first["updates"]) / wall
    unrolls = updates * config.rollouts_per_batch / config.actors.number(levels)
    playing = mean("time/actor_act_s") + mean("time/actor_step_s")
    return TrainingCost(
        frames / wall, stages, updates * mean("time/update_s"), unrolls * playing, mean("lag_mean"), memory, startup
    )
