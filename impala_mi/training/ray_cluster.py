"""Ray: the one that RAY_ADDRESS names, or one of our own for the length of a run."""

import contextlib
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

if not os.environ.get("RAY_ADDRESS"):
    # The one switch by which Ray keeps every port of a cluster of its own on loopback; it is read at import.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # The history of 100,000 calls, which Ray keeps for its dashboard: hundreds of MB within hours.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")

import psutil
import ray

from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.errors import UserError
from impala_mi.host import reaper
from impala_mi.host.signals import Interrupted
from impala_mi.host.tempdirs import sweep
from impala_mi.training.preflight import object_store_bytes, processors

_UNNEEDED = ("ray/dashboard/dashboard.py", "ray/autoscaler/_private/monitor.py")


@contextlib.contextmanager
def running_ray(config: Config, suite: Suite, runs: int = 1) -> Iterator[None]:
    """A Ray of our own on loopback, or the cluster that RAY_ADDRESS names; ended with all its processes.

    With room for so many runs at a time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Threads of the learner that wait for each other sleep: the actors can use the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    address, one = os.environ.get("RAY_ADDRESS"), processors(config, len(suite.levels))
    cpus, gpus = math.ceil(runs * one.cpus), runs * one.gpus
    with contextlib.ExitStack() as stack:
        # Not in TMPDIR: the paths of Ray's sockets must stay short.
        folder = tempfile.TemporaryDirectory(prefix="impala-mi-ray-", dir="/tmp", ignore_cleanup_errors=True)
        session = stack.enter_context(folder)
        stack.enter_context(_reaped(session))
        stack.callback(_end_ray)
        try:
            if address:
                ray.init(log_to_driver=True)
            else:
                ray.init(
                    address="local",
                    _temp_dir=session,
                    num_cpus=cpus,
                    num_gpus=math.ceil(gpus),
                    include_dashboard=False,
                    object_store_memory=runs * object_store_bytes(config, suite),
                    logging_level=logging.ERROR,
                )
                _end_unneeded()
        except SystemExit:  # what Ray's own handler makes of SIGTERM while it starts
            raise Interrupted from None
        except Exception as e:  # Ray raises anything here
            where = f"RAY_ADDRESS={address}" if address else "this machine"
            raise UserError(f"Ray does not start on {where}: {str(e).strip().splitlines()[0]}") from None
        there = ray.cluster_resources()
        if there.get("CPU", 0) < cpus or there.get("GPU", 0) < gpus:
            print(
                f"note: the cluster has {there.get('CPU', 0):.0f} CPUs and {there.get('GPU', 0):g} GPUs now; "
                f"{cpus} CPUs and {gpus:g} GPUs are wanted for {runs * one.actors} actors, {runs * one.workers} "
                f"inference workers and {runs * config.learner.size} learner ranks: what has no room waits for new "
                "nodes",
                file=sys.stderr,
            )
        yield


@contextlib.contextmanager
def _reaped(folder: str) -> Iterator[None]:
    """Have a process of its own end what is left of our Ray, however this one ends."""
    os.environ[reaper.MARK] = folder
    held, life = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", reaper.__file__, folder],
        stdin=held,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if k != reaper.MARK},
        start_new_session=True,
    )
    os.close(held)
    try:
        yield
    finally:
        del os.environ[reaper.MARK]
        os.close(life)
        process.wait()


def _end_unneeded() -> None:
    """End what a Ray of our own starts and nobody asks: a dashboard without pages, an autoscaler; 130 MB."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(part.endswith(_UNNEEDED) for part in process.cmdline()):
                process.kill()
                process.wait(5)


def _end_ray() -> None:
    """Shut Ray down; a start that was interrupted leaves processes that it would forget."""
    started = psutil.Process().children(recursive=True)
    ray.shutdown()
    for process in psutil.wait_procs(started, timeout=2)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    sweep()  # what killed actors left on this machine
