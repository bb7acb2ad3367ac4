"""A Ray cluster of three nodes: a population, and a job of `ray job submit`, where a node dies and one comes."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster
from tests.integration.population import consistent, count
from tests.integration.session import PACED, wait_for

pytestmark = pytest.mark.integration
RAY = str(Path(sys.executable).parent / "ray")
JOBS = importlib.util.find_spec("aiohttp_cors") is not None


@pytest.fixture(scope="module")
def cluster():
    """A head with one processor and two nodes with two each."""
    made = Cluster(head_cpus=1, job_server=JOBS)
    try:
        made.nodes = [made.add_node(2), made.add_node(2)]
        yield made
    finally:
        made.close()


def test_a_population_on_a_cluster_that_was_started_in_another_folder(cluster, population):
    population.env = cluster.env | {"PYTHONPATH": population.env["PYTHONPATH"]}
    population.run("pbt", "pbt.yaml", "run.name=p", "train.env_frames=8000", "pbt.ready_episodes=100")
    assert count(population, "done") == 2
    assert consistent(population)


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


@pytest.mark.skipif(not JOBS, reason="ray job submit needs impala-mi[cluster]")
def test_a_job_goes_on_when_a_node_dies_and_another_comes(cluster, session, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(session.folder / "tiny.yaml", work)
    submit(
        cluster, work, "tiny.yaml", "--resume", "auto", f"run.root={session.folder}/runs", "run.name=a",
        "actors.count=3", "learner.num_cpus=0.5", "train.env_frames=1e9", PACED,
    )  # fmt: skip

    def alive():
        return (session.records("a") or [{}])[-1].get("actors/alive")

    wait_for(lambda: alive() == 3, 240)
    before = session.records("a")[-1]["env_frames"]
    cluster.kill_node(cluster.nodes[0])  # with an actor at least: the other has two processors
    wait_for(lambda: any(event["node_lost"] for event in session.events_of("a", "actor_died")), 240)
    cluster.add_node(2)
    wait_for(lambda: alive() == 3, 240)
    wait_for(lambda: session.records("a")[-1]["env_frames"] > before + 2000, 240)
    last = session.records("a")[-1]
    assert last["actors/restarts"] == 0, "actors that went with their node are not held against the run"
    listed = jobs(cluster)
    assert "RUNNING" in listed, listed
