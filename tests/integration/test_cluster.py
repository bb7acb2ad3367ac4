"""A Ray cluster of three nodes: a population and a run with modules of the driver's folder, and a job of
`ray job submit`, where a node dies and one comes."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from impala_mi.hooks import MODULES, PACKAGE
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


OWN_GAMES = """
import functools, os
from dataclasses import replace
import own_helper
from impala_mi.config import EnvConfig
from impala_mi.envs.process import ProcessGame
from tests.games import paced

def note(where):
    with open({log!r}, "a") as log:
        print(where, os.getpid(), own_helper.__file__, file=log)

def suite(config):
    note("suite")
    return replace(paced(config), make_game=lambda level: ProcessGame(functools.partial(game, level), level, 60.0))

def game(level, folder):
    note("game")
    return paced(EnvConfig(levels=[level])).make_game(level)
"""
"""Module of the suite `paced` with games in processes of their own, which notes who imports what."""


def add_own_games(session):
    """Write modules into the driver's folder; returns a function that reads what was noted."""
    log = session.folder / "noted"
    (session.folder / "own_games.py").write_text(OWN_GAMES.format(log=str(log)))
    (session.folder / "own_helper.py").write_text("")

    def noted(kind):
        lines = [line.split(maxsplit=2) for line in log.read_text().splitlines()] if log.exists() else []
        return [(int(pid), Path(file)) for where, pid, file in lines if where == kind]

    return noted


def shipped(file):
    return file.parts[-3:] == (PACKAGE, MODULES, "own_helper.py")


def test_a_population_on_a_cluster_that_was_started_in_another_folder(cluster, population):
    noted = add_own_games(population)
    population.env = cluster.env | {"PYTHONPATH": population.env["PYTHONPATH"]}
    population.run(
        "pbt", "pbt.yaml", "run.name=p", "train.env_frames=8000", "pbt.ready_episodes=100",
        "env.suite=own_games:suite", "actors.envs=5", "learner.batch_size=5",
    )  # fmt: skip
    assert count(population, "done") == 2
    assert consistent(population)
    elsewhere = [file for _, file in noted("suite") + noted("game") if not shipped(file)]
    assert set(elsewhere) == {population.folder / "own_helper.py"}, "the driver's own"
    assert len(noted("game")) >= 10


def test_modules_of_the_drivers_folder_are_found_on_every_node(cluster, session):
    noted = add_own_games(session)
    session.env = cluster.env | {"PYTHONPATH": session.env["PYTHONPATH"], "TMPDIR": str(session.folder)}
    process = session.train("env.suite=own_games:suite", "actors.envs=5", "learner.batch_size=10")
    for file in session.folder.glob("own_*.py"):
        file.unlink()  # whoever starts from now on has only what was sent

    wait_for(lambda: len(noted("game")) == 10)
    cluster.actors()[0].kill()
    wait_for(lambda: len(noted("game")) == 15)
    session.goes_on()
    session.stop(process)
    assert all(shipped(file) for pid, file in noted("suite") if pid != process.pid)
    assert all(shipped(file) for _, file in noted("game"))
    assert not list(session.folder.glob("impala-mi-*")), "the copies that were sent"


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
