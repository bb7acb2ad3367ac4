"""Kinds of faults of the campaign: what each does to a run, and by what its recovery is known."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from tests.integration.session import wait_for

if TYPE_CHECKING:
    from tests.faults.campaign import Campaign

WORKERS = {
    # kind: part of the name of its processes
    "environment": "impala_mi.envs.process",
    "actor": "ray::_Actor",
    "inference": "ray::_InferenceWorker",
    "learner": "ray::_Learner",
}
LONGEST_PAUSE_S = 20.0
"""Longest time for which a process is stopped."""
LATEST_START_S = 15.0
"""Latest time after the start of a driver or a reader at which it is hit."""
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a command to end."""
RAY_ENDED = "(the raylet of its node, or the cluster's GCS)"
"""Part of what a run says when Ray ends it, or when it notices that Ray has ended."""
READERS = (["eval", "--episodes", "5"], ["report"], ["tsne"], ["watch", "--once"])
"""Commands that read the run while it is going on."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    share: int
    """Faults of a hundred."""
    strike: Callable[["Campaign"], None]
    event: str | None = None
    """Event of the run that reports the fault; with None the run has recovered once it is whole."""
    cluster: bool = False
    """Whether the fault needs a cluster of several nodes."""


def kill_worker(name: str) -> Callable[["Campaign"], None]:
    """Fault that kills a random process of a kind."""

    def strike(campaign: "Campaign") -> None:
        campaign.victim(name).kill()

    return strike


def kill_two(campaign: "Campaign") -> None:
    """Kill two processes at once, of one kind or of two."""
    names = campaign.random.choices(list(WORKERS), k=2)
    for process in [campaign.victim(name) for name in names]:
        with suppress(psutil.NoSuchProcess):  # the same one, or a game that ended with its actor
            process.kill()


def pause(campaign: "Campaign") -> None:
    """Stop a random process of a kind, or the driver, for a while."""
    name = campaign.random.choice([*WORKERS, "driver"])
    process = psutil.Process(campaign.driver.pid) if name == "driver" else campaign.victim(name)
    with suppress(psutil.NoSuchProcess):  # the run may replace it meanwhile
        process.suspend()
        try:
            time.sleep(campaign.random.uniform(0.1, LONGEST_PAUSE_S))
        finally:
            process.resume()


def kill_driver(campaign: "Campaign") -> None:
    """Kill the driver at a random moment."""
    campaign.driver.kill()
    campaign.resubmit(-signal.SIGKILL)


def kill_at_checkpoint(campaign: "Campaign") -> None:
    """Kill the driver while it writes a checkpoint."""
    folder = campaign.run / "checkpoints"
    before = set(os.listdir(folder))
    campaign.wait(lambda: set(os.listdir(folder)) - before, "a checkpoint", poll_s=0.001)
    time.sleep(campaign.random.uniform(0, 0.05))
    kill_driver(campaign)


def kill_at_start(campaign: "Campaign") -> None:
    """Kill the driver, and again while it resumes."""
    kill_driver(campaign)
    time.sleep(campaign.random.uniform(0, LATEST_START_S))
    kill_driver(campaign)


def signal_driver(campaign: "Campaign") -> None:
    """Ask the driver to end; it writes a checkpoint before."""
    campaign.driver.send_signal(campaign.random.choice(ENDS))
    campaign.resubmit(130, lossless=True)


def signal_at_start(campaign: "Campaign") -> None:
    """Ask the driver to end while it resumes; before it handles signals it ends by them."""
    kill_driver(campaign)
    time.sleep(campaign.random.uniform(0, LATEST_START_S))
    number = campaign.random.choice(ENDS)
    campaign.driver.send_signal(number)
    campaign.resubmit(130, -number)


def signal_twice(campaign: "Campaign") -> None:
    """Ask the driver to end, and again at once: it need not write a checkpoint."""
    for number in campaign.random.choices(ENDS, k=2):
        campaign.driver.send_signal(number)
        time.sleep(campaign.random.uniform(0, 0.5))
    campaign.resubmit(130)


def kill_node(campaign: "Campaign") -> None:
    """Kill all processes of a node at once; another one joins."""
    campaign.cluster.kill_node(campaign.nodes.pop(campaign.random.randrange(len(campaign.nodes))))
    campaign.nodes.append(campaign.cluster.add_node(4))


def kill_raylet(campaign: "Campaign") -> None:
    """Kill the raylet of a node, whose other processes then end by themselves; another node joins."""
    node = campaign.nodes.pop(campaign.random.randrange(len(campaign.nodes)))
    campaign.cluster.process(node, "raylet").kill()
    campaign.nodes.append(campaign.cluster.add_node(4))


def kill_head(name: str) -> Callable[["Campaign"], None]:
    """Fault that kills a process of Ray's head node: the run ends, and is submitted to another cluster."""

    def strike(campaign: "Campaign") -> None:
        said = campaign.count(RAY_ENDED)
        campaign.cluster.process(0, name).kill()
        assert campaign.driver.wait(timeout=120) == 1
        wait_for(lambda: campaign.count(RAY_ENDED) > said, 30)
        campaign.start_cluster()
        campaign.resubmit(1)

    return strike


def end_reader(campaign: "Campaign") -> None:
    """Kill or interrupt a command that reads the run; the run must not notice."""
    command, *options = campaign.random.choice(READERS)
    number = campaign.random.choice([signal.SIGKILL, *ENDS])
    reader = subprocess.Popen(
        [sys.executable, "-m", "impala_mi", command, str(campaign.run), *options],
        cwd=campaign.folder, env=campaign.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with suppress(subprocess.TimeoutExpired):
        reader.wait(campaign.random.uniform(0, LATEST_START_S))
    reader.send_signal(number)
    out, err = reader.communicate(timeout=60)
    assert reader.returncode in (0, 130, -number), f"{command} ended with {reader.returncode}: {out}{err}"
    assert "Traceback" not in err or reader.returncode == -number, err


KINDS = {
    "environment": Kind(28, kill_worker("environment"), "fault"),
    "actor": Kind(15, kill_worker("actor"), "actor_died"),
    "inference": Kind(8, kill_worker("inference"), "inference_died"),
    "learner": Kind(10, kill_worker("learner"), "learner_restarted"),
    "two": Kind(6, kill_two),
    "pause": Kind(6, pause),
    "driver": Kind(3, kill_driver, "resumed"),
    "checkpoint": Kind(3, kill_at_checkpoint, "resumed"),
    "start": Kind(2, kill_at_start, "resumed"),
    "signal": Kind(3, signal_driver, "resumed"),
    "signal start": Kind(2, signal_at_start, "resumed"),
    "signal twice": Kind(2, signal_twice, "resumed"),
    "reader": Kind(4, end_reader),
    "node": Kind(3, kill_node, cluster=True),
    "raylet": Kind(3, kill_raylet, cluster=True),
    "gcs": Kind(1, kill_head("gcs_server"), "resumed", cluster=True),
    "head raylet": Kind(1, kill_head("raylet"), "resumed", cluster=True),
}
