"""Training end to end, beside the sum of its parts."""

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

from impala_mi.bench.measure import cpu_seconds, tree
from impala_mi.config import Config, build, to_yaml
from impala_mi.errors import TrainingError

PATIENCE_S = 300.0
"""Until the first record of a run."""
WORKERS = (("_Actor", "actors"), ("_InferenceWorker", "inference"), ("_Learner", "learner"))


@dataclass(frozen=True)
class Trained:
    """What a run did in its window."""

    fps: float
    """Agent steps that the learner consumed, a second."""
    stages: dict[str, float]
    """CPU microseconds a frame: games, actors, inference, learner, ray, driver."""
    learner_busy: float
    """Share of the time that the learner updates."""
    actors_busy: float
    """Share of the time that an actor plays; the rest it hands in, loads weights and waits."""
    lag: float
    memory_mb: float
    """Peak of the whole tree's proportional set size, looked at every 5 s."""
    startup_s: float

    @property
    def cpu_us(self) -> float:
        """CPU microseconds a frame of the whole tree."""
        return sum(self.stages.values())


def _stage(process: psutil.Process, driver: int) -> str:
    """Whose a process is: what an actor starts are games, the rest of what the driver starts is Ray."""
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
    """Their proportional set size."""
    total = 0
    for p in processes:
        with contextlib.suppress(psutil.Error):
            total += p.memory_full_info().pss
    return total / 2**20


class Run:
    """A run in processes of its own, and its records."""

    def __init__(self, config: Config, root: Path, overrides: Sequence[str]) -> None:
        values = build("bench", config.model_dump(), [
            f"run.root={root}", "run.name=run", "train.env_frames=1e15", "train.max_time_s=3600",
            "train.log_every_s=1.0", "train.checkpoint_every_s=1e9", *overrides,
        ])  # fmt: skip
        file = root / "bench.yaml"
        file.write_text(to_yaml(values), encoding="utf-8")
        self._log = root / "run" / "metrics.jsonl"
        self._out = open(root / "out.txt", "w+", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "impala_mi", "train", str(file)],
            stdout=self._out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """All so far; raises `TrainingError` where the run has ended."""
        if self.process.poll() is not None:
            self._out.seek(0)
            raise TrainingError(f"the run ended: {self._out.read().strip()[-500:]}")
        lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True) if self._log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def next_record(self, patience: float = 60.0) -> dict[str, Any]:
        """Wait for one that is not there yet."""
        before, began = len(self.records()), time.monotonic()
        while len(found := self.records()) <= before:
            if time.monotonic() - began > patience:
                raise TrainingError(f"a run wrote no record in {patience:.0f} s")
            time.sleep(0.02)
        return found[-1]

    def close(self) -> None:
        """End it and all below it."""
        below = tree(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        for p in psutil.wait_procs(below, timeout=5)[1]:
            with contextlib.suppress(psutil.Error):
                p.kill()
        self._out.close()


@contextlib.contextmanager
def running(config: Config, *overrides: str) -> Iterator[Run]:
    """Train without end in a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="impala-mi-bench-") as folder:
        run = Run(config, Path(folder), overrides)
        try:
            yield run
        finally:
            run.close()


def train(config: Config, levels: int, warmup: float, seconds: float) -> Trained:
    """Train on so many levels for a window of some seconds after a warm-up that begins with the first record.

    Raises `TrainingError` where the run fails.
    """
    with running(config) as run:
        began = time.monotonic()
        run.next_record(PATIENCE_S)
        startup = time.monotonic() - began
        time.sleep(warmup)
        first, pid = run.next_record(), run.process.pid
        known, before = len(run.records()), cpu_seconds(tree(pid))
        memory, end = 0.0, time.monotonic() + seconds
        while time.monotonic() < end:
            memory = max(memory, memory_mb(tree(pid)))  # reading it costs some CPU time: rarely
            time.sleep(min(5.0, max(end - time.monotonic(), 0.0)))
        last, after = run.next_record(), cpu_seconds(tree(pid))
        stage_of = {p: _stage(p, pid) for p in after}
        window = run.records()[known:]
    frames, wall = last["agent_steps"] - first["agent_steps"], last["time_s"] - first["time_s"]
    if not frames:
        raise TrainingError(f"no update in {wall:.0f} s; measure for longer")
    stages: dict[str, float] = {}
    for p, used in after.items():
        stage = stage_of[p]
        stages[stage] = stages.get(stage, 0.0) + 1e6 * (used - before.get(p, 0.0)) / frames

    def mean(key: str) -> float:
        found = [r[key] for r in window if key in r]
        return sum(found) / len(found) if found else 0.0

    updates = (last["updates"] - first["updates"]) / wall
    unrolls = updates * config.rollouts_per_batch / config.actors.number(levels)
    playing = mean("time/actor_act_s") + mean("time/actor_step_s")
    return Trained(
        frames / wall, stages, updates * mean("time/update_s"), unrolls * playing, mean("lag_mean"), memory, startup
    )
