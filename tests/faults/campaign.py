"""Campaign of random kills against a run that learns, and a report of its recoveries."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.integration.cluster import Cluster
from tests.integration.session import ROOT, TINY, processes_of

KINDS = {
    # kind: (part of the name of its processes, kills of a hundred, event that reports the kill)
    "environment": ("impala_mi.envs.process", 40, "fault"),
    "actor": ("ray::_Actor", 25, "actor_died"),
    "inference": ("ray::_InferenceWorker", 12, "inference_died"),
    "learner": ("ray::_Learner", 13, "learner_restarted"),
    "driver": ("", 5, "resumed"),
    "node": ("", 5, "actor_joined"),
}
TIMEOUT_S = 240.0
"""Timeout of a recovery."""
OVERRIDES = (
    "env.suite=tests.games:tiny_processes", "actors.count=3", "actors.envs=5", "actors.inference=central",
    "actors.max_restarts=100000", "actors.max_deaths_in_a_row=1000", "learner.max_restarts=100000",
    "learner.ranks=2", "learner.batch_size=10", "train.checkpoint_every_s=10",
)  # fmt: skip


@dataclass(frozen=True)
class Death:
    """One kill and the recovery from it."""

    kind: str
    recovered_s: float
    """Seconds until the next record with more frames."""
    frames_lost: int
    """Frames that were counted before the kill and not after it."""


@dataclass
class Campaign:
    """A run in a folder, whose processes are killed at random.

    Args:
        folder: folder of everything that the run writes.
        seed: seed of the choice of victims.
        cluster: cluster on which it runs; None starts its own Ray.
        overrides: further overrides of the run's configuration.
    """

    folder: Path
    seed: int = 1
    cluster: Cluster | None = None
    overrides: tuple[str, ...] = ()
    nodes: list[int] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    drivers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.env = (os.environ if self.cluster is None else self.cluster.env) | {
            "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary),
        }  # fmt: skip
        self.run = self.folder / "runs" / "a"
        self.random = random.Random(self.seed)

    def start(self) -> None:
        """Start the run, or resume it after its driver was killed."""
        command = [
            sys.executable, "-m", "impala_mi", "train", "tiny.yaml", "--resume", "auto", "run.name=a",
            "train.env_frames=1e9", *OVERRIDES, *self.overrides,
        ]  # fmt: skip
        with open(self.folder / "out.txt", "ab") as out:
            self.driver = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=out, stderr=out, start_new_session=True
            )
        self.drivers.append(self.driver.pid)

    def frames(self) -> int:
        """Frames that the newest record counts."""
        return max((r["env_frames"] for r in self.lines("metrics.jsonl")[-1:]), default=0)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Lines of a JSON-lines file of the run, without a line that is still being written."""
        file = self.run / name
        text = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in text if line.endswith("\n")]

    def wait(self, condition: Any, goal: str) -> None:
        """Wait until a condition holds; fails after `TIMEOUT_S` or if the run ends."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            out = (self.folder / "out.txt").read_text()[-2000:]
            assert self.driver.poll() is None, f"the run ended while waiting for {goal}: {out}"
            assert time.monotonic() < deadline, f"waited {TIMEOUT_S:.0f} s for {goal}: {out}"
            time.sleep(0.05)

    def plan(self, kills: int) -> Iterator[str]:
        """Kinds in random order by their shares, each at least once."""
        kinds = {k: share for k, (_, share, _) in KINDS.items() if k != "node" or self.cluster is not None}
        planned = [*kinds, *self.random.choices(list(kinds), list(kinds.values()), k=max(0, kills - len(kinds)))]
        self.random.shuffle(planned)
        yield from planned

    def victims(self, kind: str) -> list[psutil.Process]:
        """Processes of a kind that belong to this run."""
        name, processes = KINDS[kind][0], []
        for p in psutil.process_iter(["cmdline"]):
            with suppress(psutil.Error, AttributeError):  # the process or its parent has ended
                if name not in " ".join(p.info["cmdline"] or []) or not self.owns(p):
                    continue
                # A kill of a game whose actor has just died would go unnoticed.
                if kind != "environment" or "ray::_Actor" in " ".join(p.parent().cmdline()):
                    processes.append(p)
        return processes

    def owns(self, process: psutil.Process) -> bool:
        """Whether a process belongs to this campaign: its temporary folder is that of the campaign or below it."""
        return process.environ().get("TMPDIR", "").startswith(str(self.temporary))

    def kill(self, kind: str) -> None:
        """Kill a process of a kind, wait until the run continues, and record the recovery."""
        before, event = self.frames(), KINDS[kind][2]
        events = Counter(e["event"] for e in self.lines("events.jsonl"))
        if kind == "driver":
            self.driver.kill()
            self.driver.wait()
        elif kind == "node":
            assert self.cluster is not None
            self.cluster.kill_node(self.nodes.pop(self.random.randrange(len(self.nodes))))
        else:
            self.wait(lambda: self.victims(kind), f"a living {kind}")
            self.random.choice(self.victims(kind)).kill()
        start, last = time.monotonic(), self.lines("metrics.jsonl")[-1:]
        if kind == "driver":
            self.start()
        if kind == "node":
            assert self.cluster is not None
            self.nodes.append(self.cluster.add_node(4))
        self.wait(
            lambda: Counter(e["event"] for e in self.lines("events.jsonl"))[event] > events[event],
            f"{event} after a kill of {kind}",
        )
        lost, since = 0, self.frames()
        if kind == "learner":
            lost = self.lines("events.jsonl")[-1].get("frames_lost", 0)
        if kind == "driver":
            at = [e for e in self.lines("events.jsonl") if e["event"] == "resumed"][-1]["checkpoint"]
            lost, since = max(0, before - int(at)), int(at)
        self.wait(  # a resumed run drops records of frames that it plays again, but not at once
            lambda: self.frames() > since and self.lines("metrics.jsonl")[-1:] != last, f"frames after {kind}"
        )
        self.deaths.append(Death(kind, time.monotonic() - start, lost))

    def stop(self) -> int:
        """End the run with a checkpoint and return its exit code."""
        self.driver.send_signal(signal.SIGINT)
        return self.driver.wait(timeout=120)

    def leaks(self) -> list[str]:
        """Processes and files that remain after the end of the run."""
        deadline = time.monotonic() + 15
        while True:
            remains = [f"process {p.pid} {p.info['cmdline']}" for p in self.victims("environment")]
            remains += [f"file {p.name}" for p in self.temporary.iterdir() if p.name.startswith("impala-mi-")]
            if self.cluster is None:
                remains += [f"process {p.pid}" for driver in self.drivers for p in processes_of(driver)]
            else:
                remains += [f"process {p.pid}" for k in ("actor", "inference", "learner") for p in self.victims(k)]
            if not remains or time.monotonic() > deadline:
                return remains
            time.sleep(0.5)

    def score(self, run: Path, episodes: int = 50) -> tuple[float, float, float]:
        """Capped mean score of the last checkpoint of a run, with its interval."""
        subprocess.run(
            [sys.executable, "-m", "impala_mi", "eval", str(run), "--episodes", str(episodes)],
            cwd=self.folder, env={k: v for k, v in self.env.items() if k != "RAY_ADDRESS"}, check=True,
            capture_output=True,
        )  # fmt: skip
        result = json.loads(next((run / "eval").glob("*.json")).read_text())
        return result["capped_mean"], *result["capped_interval"]

    def undisturbed(self, frames: int, seed: int) -> Path:
        """Train without kills to the same number of frames; returns the folder of the run."""
        name = f"undisturbed-{seed}"
        subprocess.run(
            [sys.executable, "-m", "impala_mi", "train", "tiny.yaml", f"run.name={name}", f"seed={seed}",
             *OVERRIDES, f"train.env_frames={frames}"],
            cwd=self.folder, env={k: v for k, v in self.env.items() if k != "RAY_ADDRESS"}, check=True,
            capture_output=True,
        )  # fmt: skip
        return self.folder / "runs" / name

    def report(self) -> str:
        """Table of the recoveries by kind."""
        lines = [f"{'killed':12} {'times':>5} {'median s':>8} {'longest s':>9} {'frames lost':>11}"]
        for kind in KINDS:
            deaths = [d for d in self.deaths if d.kind == kind]
            if deaths:
                seconds = sorted(d.recovered_s for d in deaths)
                lines.append(
                    f"{kind:12} {len(deaths):5} {seconds[len(seconds) // 2]:8.1f} {seconds[-1]:9.1f} "
                    f"{sum(d.frames_lost for d in deaths):11,}"
                )
        return "\n".join(lines)
