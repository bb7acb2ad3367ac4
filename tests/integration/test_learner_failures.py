"""Learners that die while a run goes on."""

import pytest

from tests.integration.session import actors_of, left_behind, wait_for

pytestmark = pytest.mark.integration


def test_a_killed_learner_goes_on_from_what_the_driver_kept(session):
    process = session.train()
    (learner,) = actors_of(process, "_Learner")
    actors = {p.pid for p in actors_of(process)}
    learner.kill()
    wait_for(lambda: "learner_restarted" in session.events("a"))
    last = session.goes_on()
    assert last["learner/restarts"] == 1
    assert last["actors/restarts"] == 0
    assert {p.pid for p in actors_of(process)} == actors, "actors are left alone"
    (event,) = session.events_of("a", "learner_restarted")
    assert event["seconds"] < 30
    assert event["frames_lost"] >= 0
    session.stop(process)
    assert session.checkpoint("a").meta["env_frames"] >= last["env_frames"]


def test_a_learner_that_dies_while_it_starts_is_started_again(session):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=20000")
    wait_for(lambda: actors_of(process, "_Learner"))
    actors_of(process, "_Learner")[0].kill()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert session.events("a").count("learner_died") == 1


def test_a_killed_rank_costs_the_group_a_batch(session):
    process = session.train("learner.ranks=2", "learner.batch_size=20")
    ranks = actors_of(process, "_Learner")
    assert len(ranks) == 2
    before = session.records("a")[-1]
    ranks[1].kill()
    wait_for(lambda: "learner_restarted" in session.events("a"))
    last = session.goes_on()
    (event,) = session.events_of("a", "learner_restarted")
    assert event["frames_lost"] == 0, "the other rank held the newest state"
    assert event["env_frames"] >= before["env_frames"]
    assert last["learner/restarts"] == 1
    assert len(actors_of(process, "_Learner")) == 2
    session.stop(process)


def test_a_learner_that_dies_again_and_again_ends_the_run_with_a_checkpoint(session):
    process = session.train("learner.max_restarts=0")
    wait_for(lambda: session.records("a")[-1]["time_s"] > 13)  # it is kept every ten seconds
    for learner in actors_of(process, "_Learner"):
        learner.kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "more than learner.max_restarts=0" in out + err
    assert session.checkpoint("a").meta["updates"] > 0
    assert not left_behind(process.pid)
