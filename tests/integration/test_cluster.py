"""Training on a Ray cluster of three nodes: through `ray job submit`, with a node that dies and one that comes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster
from tests.integration.session import wait_for

pytestmark = pytest.mark.integration
RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture
def cluster():
    pytest.importorskip("aiohttp_cors", reason="ray job submit needs impala-mi[cluster]")
    made = Cluster(head_cpus=1, job_server=True)
    yield made
    made.close()


def submit(cluster, folder, *arguments):
    command = [RAY, "job", "submit", "--no-wait", "--address", cluster.dashboard, "--working-dir", str(folder),
               "--", sys.executable, "-m", "impala_mi", "train", *arguments]  # fmt: skip

    def accepted():  # not before the head's agent is there
        done = subprocess.run(command, env=cluster.env, capture_output=True, timeout=240)
        return done.returncode == 0

    wait_for(accepted, 240)


def jobs(cluster):
    done = subprocess.run(
        [RAY, "job", "list", "--address", cluster.dashboard], env=cluster.env, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_a_job_goes_on_when_a_node_dies_and_another_comes(cluster, session, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(session.folder / "tiny.yaml", work)
    first = cluster.add_node(3)
    cluster.add_node(3)
    submit(
        cluster, work, "tiny.yaml", "--resume", "auto", f"run.root={session.folder}/runs", "run.name=a",
        "env.suite=gym", "env.levels=[CartPole-v1]", "actors.count=5", "actors.envs=10", "learner.num_cpus=0.5",
        "train.env_frames=1e9", "learner.batch_size=20",
    )  # fmt: skip

    def alive():
        return (session.records("a") or [{}])[-1].get("actors/alive")

    wait_for(lambda: alive() == 5, 240)
    before = session.records("a")[-1]["env_frames"]
    cluster.kill_node(first)
    wait_for(lambda: any(event["node_lost"] for event in session.events_of("a", "actor_died")), 240)
    cluster.add_node(3)
    wait_for(lambda: alive() == 5, 240)
    wait_for(lambda: session.records("a")[-1]["env_frames"] > before + 5000, 240)
    last = session.records("a")[-1]
    assert last["actors/restarts"] == 0, "actors that went with their node are not held against the run"
    listed = jobs(cluster)
    assert "RUNNING" in listed, listed
