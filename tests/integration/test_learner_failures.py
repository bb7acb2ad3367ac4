"""Learners that die while a run goes on; tests/training has every way in which they fail."""

import pytest

from tests.integration.session import actors_of, all_actors_of, wait_for

pytestmark = pytest.mark.integration


def test_a_killed_learner_goes_on_from_what_the_driver_kept(session):
    process = session.train()
    (learner,) = actors_of(process, "_Learner")
    actors = {p.pid for p in all_actors_of(process, 2)}
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
