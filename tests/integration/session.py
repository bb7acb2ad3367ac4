"""Whole runs in processes of their own, and what they leave behind."""

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from impala_mi.runs import checkpoint as checkpoints

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "env": {"suite": "tiny"},
    "agent": {"torso": "mlp", "core_width": 64, "context_width": 16},
    "actors": {"count": 2, "envs": 10},
    "learner": {
        "unroll_length": 20, "batch_size": 20, "optimizer": "adam", "epsilon": 1e-6, "learning_rate": 2e-3,
        "max_grad_norm": 40.0, "entropy_cost": 0.01, "reward_clipping": "none",
    },
    "train": {"env_frames": 40_000, "log_every_s": 0.25},
}  # fmt: skip
PACED = "env.suite=tests.games:paced"
"""Override of runs that wait for something other than frames: they leave the cores to what is waited for."""


class Session:
    """Runs `impala-mi` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        self.env = os.environ | {"PYTHONPATH": str(ROOT), "FAULT_ONCE": str(folder / "fault")}

    def start(self, *args: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        for number in (signal.SIGINT, signal.SIGHUP):  # tests in the background, or under nohup
            if signal.getsignal(number) == signal.SIG_IGN:  # programs would inherit it
                signal.signal(number, signal.default_int_handler)
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "impala_mi", *args], cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *args: str, code: int = 0, timeout: float = 400) -> str:
        process = self.start(*args)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == code, out + err
        assert not left_behind(process.pid)
        return out + err

    def train(self, *overrides: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """A run `a` without end, when it has begun to learn."""
        process = self.start("train", "tiny.yaml", "run.name=a", "train.env_frames=1e9", *overrides, prefix=prefix)
        wait_for(lambda: len(self.records("a")) > 1)
        return process

    def goes_on(self, records: int = 2) -> dict:
        """Wait for more records of the run `a`; the last."""
        seen = len(self.records("a"))
        wait_for(lambda: len(self.records("a")) > seen + records)
        return self.records("a")[-1]

    def stop(self, process: subprocess.Popen[str]) -> None:
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        assert not left_behind(process.pid)

    def records(self, name: str) -> list[dict]:
        return self._lines(name, "metrics.jsonl")

    def events(self, name: str) -> list[str]:
        return [line["event"] for line in self._lines(name, "events.jsonl")]

    def events_of(self, name: str, kind: str) -> list[dict]:
        return [line for line in self._lines(name, "events.jsonl") if line["event"] == kind]

    def _lines(self, name: str, file: str) -> list[dict]:
        path = self.folder / "runs" / name / file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def close(self) -> None:
        """End what a test that failed left running."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()

    def checkpoint(self, name: str, which: str = "last") -> checkpoints.Checkpoint:
        return checkpoints.load(self.folder / "runs" / name / "checkpoints", which)


def left_behind(leader: int, seconds: float = 10) -> list[psutil.Process]:
    """Processes of the session that `leader` started, games and Ray's alike."""
    deadline = time.monotonic() + seconds
    while (found := processes_of(leader)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def processes_of(leader: int) -> list[psutil.Process]:
    """That belong to the session which `leader` started, and live."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, ProcessLookupError):
            pass
    return found


def actors_of(process: subprocess.Popen[str], kind: str = "_Actor") -> list[psutil.Process]:
    found = []
    for p in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if kind in " ".join(p.cmdline()):
                found.append(p)
    return found


def all_actors_of(process: subprocess.Popen[str], count: int, kind: str = "_Actor") -> list[psutil.Process]:
    """`actors_of` once `count` have started: a run learns from the first one while the others start."""
    wait_for(lambda: len(actors_of(process, kind)) == count)
    return actors_of(process, kind)


def listening_beyond_loopback(process: subprocess.Popen[str]) -> list[str]:
    """Addresses on which the run's processes listen for more than this machine."""
    root = psutil.Process(process.pid)
    mine = {p.pid for p in (root, *root.children(recursive=True))}
    listening = [c for c in psutil.net_connections("inet") if c.pid in mine and c.status == psutil.CONN_LISTEN]
    assert listening
    return [
        c.laddr.ip for c in listening if not ipaddress.ip_address(c.laddr.ip.removeprefix("::ffff:")).is_loopback
    ]


def wait_for(condition, seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
