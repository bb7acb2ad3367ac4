"""A Ray cluster of several nodes on this machine, each with processes and an object store of its own."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.integration.session import ROOT, processes_of

STORE_BYTES = 150_000_000


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])


def own_ip() -> str:
    """Of this machine in a network; Ray does not take loopback for a cluster's."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    pytest.skip("this machine has no network")


class Cluster:
    """`ray start` for a head and for nodes, with token authentication.

    Args:
        head_cpus: the head's.
        job_server: whether to start the server of `ray job submit`.
        env: more environment variables of all nodes.
    """

    def __init__(self, head_cpus: int, job_server: bool = False, env: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix="impala-mi-cluster-", dir="/tmp")  # Ray's sockets need short paths
        self._ip = own_ip()
        self.address = f"{self._ip}:{free_port()}"
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        self.env = os.environ | {
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A node that is gone is found out in seconds, not in half a minute.
            "RAY_health_check_initial_delay_ms": "2000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "4",
            **(env or {}),
        }
        self.env.pop("RAY_ADDRESS", None)
        self.env.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
        jobs = ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard.rpartition(':')[2]}"]
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._start(
            "--head", f"--port={self.address.rpartition(':')[2]}", f"--num-cpus={head_cpus}",
            f"--temp-dir={self._folder}", *(jobs if job_server else ["--include-dashboard=false"]),
        )  # fmt: skip
        self.env["RAY_ADDRESS"] = self.address

    def add_node(self, cpus: int) -> int:
        """Start another node and wait until it has joined; returns its number."""
        env = {k: v for k, v in self.env.items() if k != "RAY_ADDRESS"}
        self._start(f"--address={self.address}", f"--num-cpus={cpus}", env=env)
        return len(self._nodes) - 1

    def actors(self) -> list[psutil.Process]:
        """Processes of a run's actors on all nodes."""
        found = [p for node in self._nodes for p in processes_of(node.pid)]
        return [p for p in found if "_Actor" in " ".join(p.cmdline())]

    def kill_node(self, number: int) -> None:
        """End all processes of a node at once, as a machine that is switched off."""
        _kill(self._nodes[number])

    def alive(self, number: int) -> bool:
        """Whether a node has not ended; Ray ends one that did not answer for a while, as on a busy machine."""
        return self._nodes[number].poll() is None

    def process(self, number: int, name: str) -> psutil.Process:
        """Process of a node by its name, such as `raylet`; the head is node 0."""
        return next(p for p in processes_of(self._nodes[number].pid) if p.name() == name)

    def close(self) -> None:
        """End all nodes and remove what they wrote."""
        for node in reversed(self._nodes):
            _kill(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--block", f"--node-ip-address={self._ip}",
            f"--object-store-memory={STORE_BYTES}", f"--dashboard-agent-listen-port={free_port()}", *arguments,
        ]  # fmt: skip
        with open(Path(self._folder) / f"node{len(self._nodes)}.log", "wb") as log:
            node = subprocess.Popen(
                command, env=env or self.env, stdout=log, stderr=log, start_new_session=True, cwd=self._folder
            )
        self._nodes.append(node)
        # One after the other: two that start at once can choose the same names.
        deadline, log_file = time.monotonic() + 120, Path(log.name)
        while "Ray runtime started" not in log_file.read_text():
            assert node.poll() is None, log_file.read_text()[-3000:]
            assert time.monotonic() < deadline, log_file.read_text()[-3000:]
            time.sleep(0.1)


def _kill(node: subprocess.Popen[bytes]) -> None:
    for process in processes_of(node.pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # some end with those that were killed before
            process.kill()
    node.wait()
