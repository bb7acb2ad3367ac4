"""Runs whose processes die, one after the other.

tests/faults also kills games, inference workers and ranks; tests/training has every way in which they fail.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest

from impala_mi.host import reaper
from tests.commands import impala, refused
from tests.integration.session import (
    PACED,
    actors_of,
    all_actors_of,
    left_behind,
    listening_beyond_loopback,
    wait_for,
)

pytestmark = pytest.mark.integration


def test_a_job_outlives_a_hangup_its_actors_its_learner_its_driver_and_its_folder(session):
    for name in ("envs", "actors", "learner", "configs"):  # packages of the user's with names of ours
        (session.folder / name).mkdir()
        (session.folder / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    arguments = ("--resume", "auto", "learner.max_restarts=5", f"run.mirror=file://{session.folder}/mirror", PACED)
    process = session.train(*arguments, "train.checkpoint_every_s=1", prefix=("nohup",))
    actors = all_actors_of(process, 2)
    wait_for(lambda: session.records("a")[-1]["actors/alive"] == 2)  # one that dies before it plays is no restart
    assert not listening_beyond_loopback(process)
    assert not [p for kind in ("dashboard.py", "monitor.py") for p in actors_of(process, f"/{kind}")], "130 MB"
    os.kill(process.pid, signal.SIGHUP)  # nohup is respected: the run goes on

    actors[0].kill()
    wait_for(lambda: "actor_died" in session.events("a"))
    actors = {p.pid for p in all_actors_of(process, 2)}
    assert session.goes_on()["actors/restarts"] == 1

    (learner,) = actors_of(process, "_Learner")
    learner.kill()
    wait_for(lambda: "learner_restarted" in session.events("a"))
    last = session.goes_on()
    assert (last["learner/restarts"], last["actors/restarts"]) == (1, 1)
    assert {p.pid for p in actors_of(process)} == actors, "actors are left alone"
    (event,) = session.events_of("a", "learner_restarted")
    assert event["seconds"] < 30
    assert event["frames_lost"] >= 0

    second = impala("train", "tiny.yaml", "run.name=a", *arguments, "train.env_frames=1e9", cwd=session.folder)
    refused(second, "is being trained by another process")
    wait_for(lambda: len(list((session.folder / "mirror/a/checkpoints").glob("0*/meta.json"))) > 1)
    (learner,) = actors_of(process, "_Learner")
    ray_folder = Path(learner.environ()[reaper.MARK])
    assert ray_folder.is_dir()
    process.kill()
    process.communicate()
    assert not left_behind(process.pid)
    wait_for(lambda: not ray_folder.exists(), 10)

    # It goes on with other resources, through another hangup.
    first = session.checkpoint("a")
    frames = first.meta["env_frames"] + 4000
    goal = f"train.env_frames={frames}"
    smaller = ("actors.count=1", "actors.envs=5", "learner.learning_rate_schedule=constant")
    process = session.start("resume", "runs/a", goal, *smaller, prefix=("nohup",))
    wait_for(lambda: session.events_of("a", "resumed"))
    os.kill(process.pid, signal.SIGHUP)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, "done after" in out) == (0, True), out + err
    assert not left_behind(process.pid)
    (resumed,) = session.events_of("a", "resumed")
    assert int(resumed["checkpoint"]) == first.meta["env_frames"]
    records = [r for r in session.records("a") if r["env_frames"] >= first.meta["env_frames"]]
    last = records[-1]
    assert last["updates"] * 400 == last["agent_steps"] == last["env_frames"] == frames, "and no batch more"
    times = [r["time_s"] for r in session.records("a")]
    assert times == sorted(times)
    last = session.checkpoint("a")
    assert last.learner["optimizer"]["steps"] > first.learner["optimizer"]["steps"]
    assert last.learner["counters"]["version"] > first.learner["counters"]["version"]
    assert last.run["starts"] == 1
    done = impala("train", "tiny.yaml", "run.name=a", *arguments, goal, cwd=session.folder)
    assert (done.returncode, "the run is done" in done.stdout + done.stderr) == (0, True), done

    # Another machine finds it at the mirror; a signal leaves a checkpoint there.
    shutil.rmtree(session.folder / "runs")
    process = session.start("train", "tiny.yaml", "run.name=a", *arguments, "train.env_frames=1e9")
    wait_for(lambda: any(r["env_frames"] > last.meta["env_frames"] for r in session.records("a")))
    os.kill(process.pid, signal.SIGTERM)  # `Session.stop` sends SIGINT
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "continue with: impala-mi resume runs/a" in out
    assert not left_behind(process.pid)
    assert int(session.events_of("a", "resumed")[-1]["checkpoint"]) == last.meta["env_frames"]
    assert session.checkpoint("a").meta["env_frames"] == session.records("a")[-1]["env_frames"]
    assert session.events("a")[-2:] == ["checkpoint", "interrupted"]
    for key in ("env_frames", "level/catch/episodes"):  # both runs of this machine: the mirror has the first one's
        values = [r[key] for r in session.records("a") if r["env_frames"] > last.meta["env_frames"]]
        assert values == sorted(values)


def test_a_level_that_never_starts_ends_the_run_at_once(session):
    faulty = ("env.suite=tests.games:faulty", "actors.envs=2", "actors.count=1", "learner.batch_size=2")
    done = impala("train", "tiny.yaml", *faulty, "env.levels=[hopeless]", "run.name=a", cwd=session.folder)
    assert done.returncode == 1, done
    assert "failed: actor 0: a level did not start 10 times: hopeless" in done.stderr
    assert session.events("a").count("actor_died") == 0
