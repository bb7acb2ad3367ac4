"""Actors, games and inference workers that fail while a run goes on."""

import pytest

from tests.integration.session import actors_of, left_behind, listening_beyond_loopback, wait_for

pytestmark = pytest.mark.integration
FAULTY = ("env.suite=tests.games:faulty", "actors.envs=2", "learner.unroll_length=10")
ONE_FAULTY = ("env.suite=tests.games:faulty", "actors.envs=2", "actors.count=1", "learner.batch_size=2")


def test_a_killed_actor_is_replaced(session):
    process = session.train()
    actors = actors_of(process)
    assert len(actors) == 2
    assert not listening_beyond_loopback(process)
    assert not [p for kind in ("dashboard.py", "monitor.py") for p in actors_of(process, f"/{kind}")], "130 MB"
    actors[0].kill()
    wait_for(lambda: "actor_died" in session.events("a"))
    wait_for(lambda: len(actors_of(process)) == 2)
    assert session.goes_on()["actors/restarts"] == 1
    session.stop(process)


def test_inference_workers_act_for_all_actors_and_are_replaced(session):
    process = session.train("actors.inference=central", "inference.workers=2", "actors.count=3", "actors.envs=5")
    wait_for(lambda: len(actors_of(process, "_InferenceWorker")) == 2)  # records come before they have started
    workers = actors_of(process, "_InferenceWorker")
    workers[0].kill()
    wait_for(lambda: "inference_died" in session.events("a"))
    before = session.records("a")[-1]["env_frames"]
    last = session.goes_on()
    assert last["env_frames"] > before
    assert last["actors/restarts"] == 1
    assert session.events("a").count("actor_died") == 0
    assert len(actors_of(process)) == 3
    session.stop(process)


def test_a_level_that_kills_its_process_once_costs_one_actor(session):
    session.run("train", "tiny.yaml", *ONE_FAULTY, "env.levels=[killed]", "run.name=a", "train.env_frames=6000")
    assert session.events("a").count("actor_died") == 1
    assert session.records("a")[-1]["env_frames"] >= 6000


def test_a_level_that_always_breaks_ends_the_run_loudly(session):
    out = session.run(
        "train", "tiny.yaml", *ONE_FAULTY, "env.levels=[raises]", "run.name=a", "actors.max_restarts=2", code=1
    )
    assert "failed: 3 deaths in an hour, more than actors.max_restarts=2; the last: actor 0" in out
    assert "the level broke" in out


def test_a_level_that_never_starts_ends_the_run_at_once(session):
    out = session.run("train", "tiny.yaml", *ONE_FAULTY, "env.levels=[hopeless]", "run.name=a", code=1)
    assert "failed: actor 0: a level did not start 10 times: hopeless" in out
    assert session.events("a").count("actor_died") == 0


def test_an_actor_that_hangs_is_replaced(session):
    process = session.start("train", "tiny.yaml", *FAULTY, "env.levels=[hangs]", "run.name=a", "actors.timeout_s=5",
                            "actors.count=1", "learner.batch_size=2", "train.env_frames=4000")  # fmt: skip
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    (event,) = session.events_of("a", "actor_died")
    assert "actors.timeout_s=5" in event["error"]
    assert not left_behind(process.pid)


def test_an_actor_that_always_dies_is_given_up_and_the_others_go_on(session):
    session.run("train", "tiny.yaml", *FAULTY, "env.levels=[killed,poison]", "run.name=a", "actors.per_level=1",
                "actors.count=null", "actors.max_deaths_in_a_row=2", "learner.batch_size=2",
                "learner.unroll_length=55", "train.env_frames=30000")  # fmt: skip
    (event,) = session.events_of("a", "actor_given_up")
    assert event["levels"] == ["poison"]
    last = session.records("a")[-1]
    assert (last["actors/given_up"], last["actors/alive"]) == (1, 1)
    assert last["env_frames"] >= 30000


def test_a_run_with_too_few_actors_ends_with_a_checkpoint(session):
    out = session.run("train", "tiny.yaml", *FAULTY, "env.levels=[slow,poison]", "run.name=a", "actors.per_level=1",
                      "actors.count=null", "actors.max_deaths_in_a_row=2", "learner.batch_size=2", "actors.min=2",
                      "learner.unroll_length=55", "train.env_frames=1e9", code=1)  # fmt: skip
    assert "only 1 of 2 actors are alive, fewer than 2: 1 were given up" in out
    assert session.events_of("a", "checkpoint")[-1]["env_frames"] > 0
