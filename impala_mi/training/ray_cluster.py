"""Ray: the cluster that RAY_ADDRESS names, or a private one that lives as long as the run."""

import contextlib
import importlib
import logging
import math
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

if not os.environ.get("RAY_ADDRESS"):
    # Ray reads this at import; it is the only switch that keeps every port of a private cluster on loopback.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Ray keeps the history of 100,000 calls for its dashboard: hundreds of MB within hours.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")

import psutil
import ray
from ray._private.node import Node

from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.errors import StartError, UserError
from impala_mi.host import reaper
from impala_mi.host.signals import Interrupted
from impala_mi.host.tempdirs import sweep
from impala_mi.host.threads import KEEP_FREED_MEMORY
from impala_mi.training.preflight import check_ray_version, object_store_bytes, processors
from impala_mi.training.ray_start import PATIENCE, TOKEN, check_cluster, first_line, start_node
from impala_mi.training.shipped_code import runtime_env

END_S = 2.0
"""Seconds that processes of Ray have to end before they are killed."""
RAY_FOLDER = "ray"
"""Folder of a private Ray's sockets, logs and spilled objects, below one that only this user can enter."""
TOKEN_FILE = "token"
"""File of a private Ray's token, beside `RAY_FOLDER`."""


@contextlib.contextmanager
def running_ray(config: Config, suite: Suite, runs: int = 1) -> Iterator[None]:
    """Run Ray inside the `with` block: a private one on loopback, or the cluster that RAY_ADDRESS names.

    A private Ray has the resources of `runs` runs at a time, and ends with all its processes. Only this user can
    reach it: its files lie below a folder of mode 0700, and its ports need a token that is made for this run.
    Raises `UserError` if Ray is too old or runs in this process already, and `StartError` if it does not start or
    the cluster is gone.
    """
    check_ray_version()
    if ray.is_initialized():
        raise UserError("Ray is already running in this process; call ray.shutdown() first")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # the run reports failures itself, in one line each
    # Threads of the learner that wait for each other sleep, so that the actors can use the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    address, per_run = os.environ.get("RAY_ADDRESS"), processors(config, len(suite.levels))
    cpus, gpus = math.ceil(runs * per_run.cpus), runs * per_run.gpus
    with contextlib.ExitStack() as stack:
        # Not in TMPDIR: the paths of Ray's sockets must stay short.
        folder = tempfile.TemporaryDirectory(prefix="impala-mi-ray-", dir="/tmp", ignore_cleanup_errors=True)
        session = stack.enter_context(folder)  # of mode 0700
        stack.enter_context(_reaped(session))
        if not address:
            stack.enter_context(_own_token(Path(session)))
        stack.callback(_end_ray, session)
        try:
            if address:
                check_cluster(address)
                # Ray combines the code with the environment of a submitted job, instead of refusing both.
                with runtime_env(config) as code, _environment({"RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}):
                    ray.init(log_to_driver=True, runtime_env=code)
            else:
                stack.enter_context(_environment(KEEP_FREED_MEMORY))  # the learner needs it from its start
                with _without_unused_processes(), _environment({reaper.MARK: session, **PATIENCE}):
                    start_node(
                        partial(_end_ray, session),
                        address="local",
                        # A folder below it: Ray makes the one that it is given writable for everyone.
                        _temp_dir=f"{session}/{RAY_FOLDER}",
                        num_cpus=cpus,
                        num_gpus=math.ceil(gpus),
                        include_dashboard=False,
                        object_store_memory=runs * object_store_bytes(config, suite),
                        logging_level=logging.ERROR,
                    )
        except SystemExit:  # raised by Ray's own handler of SIGTERM while Ray starts
            raise Interrupted from None
        except (UserError, StartError):
            raise
        except Exception as e:  # of any type
            where = f"on RAY_ADDRESS={address}" if address else "on this machine"
            advice = f"; {TOKEN}" if address else ""
            raise StartError(f"Ray does not start {where}: {first_line(e)}{advice}") from None
        resources = ray.cluster_resources()
        if resources.get("CPU", 0) < cpus or resources.get("GPU", 0) < gpus:
            print(
                f"note: the cluster has {resources.get('CPU', 0):.0f} CPUs and {resources.get('GPU', 0):g} GPUs "
                f"now, but {runs * per_run.actors} actors, {runs * per_run.workers} inference workers and "
                f"{runs * config.learner.size} learner ranks need {cpus} CPUs and {gpus:g} GPUs: processes without "
                "free resources wait for new nodes",
                file=sys.stderr,
            )
        yield


@contextlib.contextmanager
def _reaped(folder: str) -> Iterator[None]:
    """Start a process that ends the remaining processes of Ray when this one ends, even if it is killed."""
    read_end, write_end = os.pipe()  # the reaper sees its end when this process is gone
    process = subprocess.Popen(
        [sys.executable, "-I", reaper.__file__, folder],
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_end)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the reaper was killed
            os.write(write_end, reaper.ENDS)
        os.close(write_end)
        process.wait()


@contextlib.contextmanager
def _own_token(folder: Path) -> Iterator[None]:
    """Make a token for the Ray that starts inside the `with` block, in a file that only this user can read.

    Processes are told the file and not the token, and tokens of other clusters in the environment are hidden from
    them.
    """
    file = folder / TOKEN_FILE
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secrets.token_hex(32))
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file), "RAY_AUTH_TOKEN": None}
    try:
        with _environment(own):
            _forget_token()
            yield
    finally:
        _forget_token()


def _forget_token() -> None:
    """Make Ray read its environment variables for authentication again; it remembers them and the token."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables, or unset those that are None; processes started meanwhile inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    _set_environment(variables)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _without_unused_processes() -> Iterator[None]:
    """Keep a private Ray from starting a dashboard without pages and an autoscaler: 130 MB and 3 CPU seconds.

    Ray has no option for that. A method that another version of Ray lacks is left out, so the process starts.
    """
    methods = {name: getattr(Node, name) for name in ("start_api_server", "start_monitor") if hasattr(Node, name)}
    try:
        for name in methods:
            setattr(Node, name, lambda *_, **__: None)
        yield
    finally:
        for name, method in methods.items():
            setattr(Node, name, method)


def _end_ray(session: str) -> None:
    """Shut Ray down, and kill the processes of its session that it forgets if its start was interrupted.

    Other processes of this program, such as a TensorBoard, are left alone.
    """
    started = []
    for pid in reaper.marked_processes(session):
        with contextlib.suppress(psutil.NoSuchProcess):
            started.append(psutil.Process(pid))
    ray.shutdown()
    for process in psutil.wait_procs(started, timeout=END_S)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    sweep()  # temporary folders that killed actors left on this machine
