"""Actors and inference workers that fail while a run goes on; tests/training has every way in which they fail."""

import pytest

from tests.integration.session import actors_of, all_actors_of, listening_beyond_loopback, wait_for

pytestmark = pytest.mark.integration
ONE_FAULTY = ("env.suite=tests.games:faulty", "actors.envs=2", "actors.count=1", "learner.batch_size=2")


def test_a_killed_actor_is_replaced(session):
    process = session.train()
    actors = all_actors_of(process, 2)
    assert not listening_beyond_loopback(process)
    assert not [p for kind in ("dashboard.py", "monitor.py") for p in actors_of(process, f"/{kind}")], "130 MB"
    actors[0].kill()
    wait_for(lambda: "actor_died" in session.events("a"))
    all_actors_of(process, 2)
    assert session.goes_on()["actors/restarts"] == 1
    session.stop(process)


def test_inference_workers_act_for_all_actors_and_are_replaced(session):
    process = session.train("actors.inference=central", "inference.workers=2", "actors.count=3", "actors.envs=5")
    workers = all_actors_of(process, 2, "_InferenceWorker")
    workers[0].kill()
    wait_for(lambda: "inference_died" in session.events("a"))
    before = session.records("a")[-1]["env_frames"]
    wait_for(lambda: session.records("a")[-1]["env_frames"] > before)  # the new worker starts meanwhile
    last = session.goes_on()
    assert last["actors/restarts"] == 1
    assert session.events("a").count("actor_died") == 0
    all_actors_of(process, 3)
    session.stop(process)


def test_a_level_that_never_starts_ends_the_run_at_once(session):
    out = session.run("train", "tiny.yaml", *ONE_FAULTY, "env.levels=[hopeless]", "run.name=a", code=1)
    assert "failed: actor 0: a level did not start 10 times: hopeless" in out
    assert session.events("a").count("actor_died") == 0
