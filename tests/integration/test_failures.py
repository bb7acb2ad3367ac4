"""What dies while a run goes on, and how it goes on."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from impala_mi import reaper
from tests.integration.session import actors_of, left_behind, wait_for

pytestmark = pytest.mark.integration
FAULTY = ("env.suite=tests.games:faulty", "actors.envs=2", "learner.unroll_length=10")


def started(session, *overrides):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=1e9", *overrides)
    file = session.folder / "runs/a/metrics.jsonl"
    wait_for(lambda: file.exists() and len(session.records("a")) > 1)
    return process


def goes_on(session, records=2):
    seen = len(session.records("a"))
    wait_for(lambda: len(session.records("a")) > seen + records)
    return session.records("a")[-1]


def stopped(process):
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not left_behind(process.pid)


def test_a_killed_learner_goes_on_from_what_the_driver_kept(session):
    process = started(session)
    (learner,) = actors_of(process, "_Learner")
    actors = {p.pid for p in actors_of(process)}
    learner.kill()
    wait_for(lambda: "learner_restarted" in session.events("a"))
    last = goes_on(session)
    assert last["learner/restarts"] == 1
    assert last["actors/restarts"] == 0
    assert {p.pid for p in actors_of(process)} == actors, "actors are left alone"
    (event,) = session.events_of("a", "learner_restarted")
    assert event["seconds"] < 30
    assert event["frames_lost"] >= 0
    stopped(process)
    assert session.checkpoint("a").meta["env_frames"] >= last["env_frames"]


def test_a_learner_that_dies_while_it_starts_is_started_again(session):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=20000")
    wait_for(lambda: actors_of(process, "_Learner"))
    actors_of(process, "_Learner")[0].kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert session.events("a").count("learner_died") == 1


def test_a_killed_rank_costs_the_group_a_batch(session):
    process = started(session, "learner.ranks=2", "learner.batch_size=20")
    ranks = actors_of(process, "_Learner")
    assert len(ranks) == 2
    before = session.records("a")[-1]
    ranks[1].kill()
    wait_for(lambda: "learner_restarted" in session.events("a"))
    last = goes_on(session)
    (event,) = session.events_of("a", "learner_restarted")
    assert event["frames_lost"] == 0, "the other rank held the newest state"
    assert event["env_frames"] >= before["env_frames"]
    assert last["learner/restarts"] == 1
    assert len(actors_of(process, "_Learner")) == 2
    stopped(process)


def test_a_learner_that_dies_again_and_again_ends_the_run_with_a_checkpoint(session):
    process = started(session, "learner.max_restarts=0")
    wait_for(lambda: session.records("a")[-1]["time_s"] > 13)  # it is kept every ten seconds
    for learner in actors_of(process, "_Learner"):
        learner.kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "more than learner.max_restarts=0" in out + err
    assert session.checkpoint("a").meta["updates"] > 0
    assert not left_behind(process.pid)


def test_an_actor_that_hangs_is_replaced(session):
    process = session.start("train", "tiny.yaml", *FAULTY, "env.levels=[hangs]", "run.name=a", "actors.timeout_s=5",
                            "actors.count=1", "learner.batch_size=2", "train.env_frames=4000")  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    (event,) = session.events_of("a", "actor_died")
    assert "actors.timeout_s=5" in event["error"]
    assert not left_behind(process.pid)


def test_an_actor_that_always_dies_is_given_up_and_the_others_go_on(session):
    session.run("train", "tiny.yaml", *FAULTY, "env.levels=[killed,poison]", "run.name=a", "actors.per_level=1",
                "actors.count=null", "actors.max_deaths_in_a_row=2", "learner.batch_size=2",
                "learner.unroll_length=55", "train.env_frames=60000")  # fmt: skip
    (event,) = session.events_of("a", "actor_given_up")
    assert event["levels"] == ["poison"]
    last = session.records("a")[-1]
    assert (last["actors/given_up"], last["actors/alive"]) == (1, 1)
    assert last["env_frames"] >= 60000


def test_a_run_with_too_few_actors_ends_with_a_checkpoint(session):
    out = session.run("train", "tiny.yaml", *FAULTY, "env.levels=[slow,poison]", "run.name=a", "actors.per_level=1",
                      "actors.count=null", "actors.max_deaths_in_a_row=2", "learner.batch_size=2", "actors.min=2",
                      "learner.unroll_length=55", "train.env_frames=1e9", code=1)  # fmt: skip
    assert "only 1 of 2 actors are alive, fewer than 2: 1 were given up" in out
    assert session.events_of("a", "checkpoint")[-1]["env_frames"] > 0


def test_a_job_that_is_resubmitted_goes_on_where_its_driver_was_killed(session):
    arguments = ("--resume", "auto", "learner.max_restarts=5", f"run.mirror=file://{session.folder}/mirror")
    process = started(session, *arguments, "train.checkpoint_every_s=1")
    with_two = session.run("train", "tiny.yaml", "run.name=a", *arguments, "train.env_frames=1e9", code=2)
    assert "is being trained by another process" in with_two
    wait_for(lambda: len(list((session.folder / "mirror/a/checkpoints").glob("0*/meta.json"))) > 1)
    (learner,) = actors_of(process, "_Learner")
    ray_folder = Path(learner.environ()[reaper.MARK])
    assert ray_folder.is_dir()
    process.kill()
    process.communicate()
    assert not left_behind(process.pid)
    wait_for(lambda: not ray_folder.exists(), 10)
    before = session.checkpoint("a").meta["env_frames"]
    goal = f"train.env_frames={before + 20000}"
    session.run("train", "tiny.yaml", "run.name=a", *arguments, goal)
    (resumed,) = session.events_of("a", "resumed")
    assert int(resumed["checkpoint"]) == before
    assert "the run is done" in session.run("train", "tiny.yaml", "run.name=a", *arguments, goal)
    # Another machine finds it at the mirror.
    shutil.rmtree(session.folder / "runs")
    session.run("train", "tiny.yaml", "run.name=a", *arguments, f"train.env_frames={before + 40000}")
    assert int(session.events_of("a", "resumed")[-1]["checkpoint"]) >= before + 20000
    assert session.checkpoint("a").meta["env_frames"] >= before + 40000


def test_a_run_that_did_not_get_to_a_checkpoint_starts_again(session):
    folder = session.folder / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("what it was\n")
    session.run("train", "tiny.yaml", "run.name=a", "--resume", "auto", "train.env_frames=5000")
    (aside,) = (session.folder / "runs").glob("a-aside-*")
    assert (aside / "events.jsonl").read_text() == "what it was\n"


def test_resuming_by_itself_needs_a_name(session):
    assert "--resume auto needs run.name" in session.run("train", "tiny.yaml", "--resume", "auto", code=2)
