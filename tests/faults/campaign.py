"""Campaign of random faults against a run that learns, and a report of its recoveries."""

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

from tests.faults.kinds import KINDS, WORKERS
from tests.integration.cluster import Cluster
from tests.integration.session import ROOT, processes_of

PATIENCE = {"RAY_health_check_failure_threshold": "10"}
"""Environment variables of the cluster: a busy machine's nodes are not taken for dead."""
TIMEOUT_S = 240.0
"""Timeout of a recovery."""
CONFIG = {
    "env": {"suite": "tests.games:contradictions_processes"},
    "agent": {"torso": "mlp", "core_width": 64, "context_width": 16, "head": "mi_task"},
    "actors": {
        "count": 3, "envs": 5, "inference": "central", "max_restarts": 100_000, "max_deaths_in_a_row": 1000,
    },
    "learner": {
        "ranks": 2, "unroll_length": 16, "batch_size": 10, "discount": 0.5, "optimizer": "adam", "epsilon": 1e-6,
        "learning_rate": 5e-4, "max_grad_norm": 40.0, "entropy_cost": 0.03, "reward_clipping": "none",
        "max_restarts": 100_000,
    },
    "train": {"checkpoint_every_s": 10, "log_every_s": 0.25},
}  # fmt: skip
"""Tasks that contradict each other everywhere: a head that is not told the task, or confuses tasks, scores 20."""
MILESTONES = (40, 60, 80, 90)
"""Scores whose first frames are compared with those of undisturbed runs."""


@dataclass(frozen=True)
class Death:
    """One fault and the recovery from it."""

    kind: str
    recovered_s: float
    """Seconds until the next record with more frames."""
    frames_lost: int
    """Frames that were counted before the fault and not after it."""


@dataclass
class Campaign:
    """A run in a folder, whose processes are hit at random.

    Args:
        folder: folder of everything that the run writes.
        seed: seed of the choice of faults and victims.
        nodes_wanted: nodes of its Ray cluster beside the head; with 0 the run starts its own Ray.
        overrides: further overrides of the run's configuration.
    """

    folder: Path
    seed: int = 1
    nodes_wanted: int = 0
    overrides: tuple[str, ...] = ()
    nodes: list[int] = field(default_factory=list)
    nodes_ended: int = 0
    """Nodes that Ray has ended by itself."""
    deaths: list[Death] = field(default_factory=list)
    drivers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in (signal.SIGINT, signal.SIGHUP):  # in the background, or under nohup
            if signal.getsignal(number) == signal.SIG_IGN:  # its programs would inherit it
                signal.signal(number, signal.default_int_handler)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.run = self.folder / "runs" / "a"
        self.random = random.Random(self.seed)
        self._cluster: Cluster | None = None
        self._lossless = False
        self.own_env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
            "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary),
        }  # fmt: skip
        self.env = self.own_env
        if self.nodes_wanted:
            self.start_cluster()

    @property
    def cluster(self) -> Cluster:
        """The Ray cluster of the run."""
        assert self._cluster is not None
        return self._cluster

    def start_cluster(self) -> None:
        """Start a Ray cluster, in place of one that may exist."""
        self.close()
        self._cluster = Cluster(head_cpus=1, env=PATIENCE | {"TMPDIR": str(self.temporary)})
        self.nodes = [self._cluster.add_node(4) for _ in range(self.nodes_wanted)]
        self.env = self._cluster.env | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)}

    def close(self) -> None:
        """End the Ray cluster."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def start(self) -> None:
        """Start the run, or resume it after its driver has ended."""
        command = [
            sys.executable, "-m", "impala_mi", "train", "config.yaml", "--resume", "auto", "run.name=a",
            "train.env_frames=1e9", *self.overrides,
        ]  # fmt: skip
        with open(self.folder / "out.txt", "ab") as out:
            self.driver = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=out, stderr=out, start_new_session=True
            )
        self.drivers.append(self.driver.pid)

    def resubmit(self, *codes: int, lossless: bool = False) -> None:
        """Wait until the driver has ended with one of the exit codes, and start it again.

        Args:
            codes: exit codes that are right.
            lossless: whether the run must have written all its frames to a checkpoint.
        """
        code = self.driver.wait(timeout=120)
        assert code in codes, f"the driver ended with {code}: {self.output()}"
        self._lossless = lossless
        self.start()

    def count(self, message: str) -> int:
        """How often the drivers have printed a message."""
        return (self.folder / "out.txt").read_text().count(message)

    def output(self) -> str:
        """End of what the drivers have printed."""
        return (self.folder / "out.txt").read_text()[-3000:]

    def frames(self) -> int:
        """Frames that the newest record counts."""
        return max((r["env_frames"] for r in self.lines("metrics.jsonl")[-1:]), default=0)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Lines of a JSON-lines file of the run, without a line that is still being written."""
        file = self.run / name
        text = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in text if line.endswith("\n")]

    def wait(self, condition: Any, goal: str, poll_s: float = 0.05) -> None:
        """Wait until a condition holds; fails after `TIMEOUT_S` or if the run ends."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.driver.poll() is None, f"the run ended while waiting for {goal}: {self.output()}"
            assert time.monotonic() < deadline, f"waited {TIMEOUT_S:.0f} s for {goal}: {self.output()}"
            time.sleep(poll_s)

    def plan(self, faults: int) -> Iterator[str]:
        """Kinds in random order by their shares, each at least once."""
        kinds = {name: k.share for name, k in KINDS.items() if self.nodes_wanted or not k.cluster}
        planned = [*kinds, *self.random.choices(list(kinds), list(kinds.values()), k=max(0, faults - len(kinds)))]
        self.random.shuffle(planned)
        yield from planned

    def victim(self, kind: str) -> psutil.Process:
        """Random process of a kind that belongs to this run, once there is one."""
        self.wait(lambda: self.victims(kind), f"a living {kind}")
        return self.random.choice(self.victims(kind) or [self.victim(kind)])

    def victims(self, kind: str) -> list[psutil.Process]:
        """Processes of a kind that belong to this run."""
        name, processes = WORKERS[kind], []
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

    def events(self) -> Counter[str]:
        """Number of the run's events of each kind."""
        return Counter(e["event"] for e in self.lines("events.jsonl"))

    def hit(self, name: str) -> None:
        """Make a fault of a kind, wait until the run continues, and record the recovery."""
        kind, before, events = KINDS[name], self.frames(), self.events()
        seen = len(self.lines("events.jsonl"))
        kind.strike(self)
        start, last = time.monotonic(), self.lines("metrics.jsonl")[-1:]
        if kind.event is None:
            self.wait(self.whole, f"all actors and ranks after {name}")
        else:
            self.wait(lambda: self.events()[kind.event] > events[kind.event], f"{kind.event} after {name}")
        since, lost = self.frames(), 0
        if kind.event == "resumed":
            at = [e for e in self.lines("events.jsonl") if e["event"] == "resumed"][-1]["checkpoint"]
            lost, since = max(0, before - int(at)), int(at)
            assert not (self._lossless and lost), f"{lost} frames were lost after {name}"
        self.wait(  # a resumed run drops records of frames that it plays again, but not at once
            lambda: self.frames() > since and self.lines("metrics.jsonl")[-1:] != last, f"frames after {name}"
        )
        if kind.event != "resumed":
            lost = sum(e.get("frames_lost", 0) for e in self.lines("events.jsonl")[seen:])
        self.deaths.append(Death(name, time.monotonic() - start, lost))

    def replace_nodes(self) -> None:
        """Replace nodes that Ray has ended by itself."""
        for number in [n for n in self.nodes if not self.cluster.alive(n)]:
            self.nodes.remove(number)
            self.nodes.append(self.cluster.add_node(4))
            self.nodes_ended += 1

    def whole(self) -> bool:
        """Whether all actors and ranks are alive again; replaces nodes that Ray has ended."""
        self.replace_nodes()
        ranks, actors = len(self.victims("learner")), self.lines("metrics.jsonl")[-1]["actors/alive"]
        config = yaml.safe_load((self.run / "config.yaml").read_text())
        return (ranks, actors) == (config["learner"]["ranks"], config["actors"]["count"])

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
            remains += [f"file {p}" for p in (self.run / "checkpoints").glob(".*")]
            remains += [f"process {p.pid}" for driver in self.drivers for p in processes_of(driver)]
            remains += [f"process {p.pid}" for k in ("actor", "inference", "learner") for p in self.victims(k)]
            if not remains or time.monotonic() > deadline:
                return remains
            time.sleep(0.5)

    def score(self, run: Path, episodes: int = 200) -> tuple[float, float, float]:
        """Capped mean score of the last checkpoint of a run, with its interval."""
        self._command("eval", str(run), "--episodes", str(episodes), "--seed", "7")
        newest = max((run / "eval").glob("*.json"), key=lambda p: p.stat().st_mtime)
        result = json.loads(newest.read_text())
        return result["capped_mean"], *result["capped_interval"]

    def undisturbed(self, frames: int, seed: int) -> Path:
        """Train without faults to the same number of frames; returns the folder of the run."""
        name = f"undisturbed-{seed}"
        self._command(
            "train", "config.yaml", f"run.name={name}", f"seed={seed}", "env.suite=tests.games:contradictions",
            *self.overrides, f"train.env_frames={frames}",
        )  # fmt: skip
        return self.folder / "runs" / name

    def _command(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "impala_mi", *arguments], cwd=self.folder, env=self.own_env, check=True,
            capture_output=True,
        )  # fmt: skip

    def milestones(self, run: Path) -> dict[int, int | None]:
        """Frames at which a run's score first reached each of `MILESTONES`."""
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return {
            m: next((r["env_frames"] for r in lines if (r.get("score/capped_mean") or 0) >= m), None)
            for m in MILESTONES
        }

    def report(self) -> str:
        """Table of the recoveries by kind."""
        lines = [f"{'fault':12} {'times':>5} {'median s':>8} {'longest s':>9} {'frames lost':>11}"]
        for kind in KINDS:
            deaths = [d for d in self.deaths if d.kind == kind]
            if deaths:
                seconds = sorted(d.recovered_s for d in deaths)
                lines.append(
                    f"{kind:12} {len(deaths):5} {seconds[len(seconds) // 2]:8.1f} {seconds[-1]:9.1f} "
                    f"{sum(d.frames_lost for d in deaths):11,}"
                )
        return "\n".join(lines)
