"""Whole populations: copies, turns, deaths in the middle of a copy."""

import time

import psutil
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from impala_mi.pbt.journal import Journal, disagreements, read
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder
from tests.commands import impala, refused
from tests.integration.cluster import Cluster
from tests.integration.session import TINY, actors_of, left_behind, processes_of, wait_for

pytestmark = pytest.mark.integration

RATE, COST = "learner.learning_rate", "learner.entropy_cost"
POPULATION = TINY | {
    "env": {"suite": "tiny", "levels": ["catch", "always_left"]},
    "actors": {"count": 1, "envs": 10},
    "pbt": {
        "members": 2, "concurrent": 2, "slice_s": 4.0, "burn_in_frames": 0, "ready_episodes": 400, "threshold": 0.0,
        "probability": 1.0, "space": {RATE: {"log_uniform": [1e-5, 1e-2]}, COST: {"log_uniform": [1e-3, 1e-1]}},
    },
}  # fmt: skip


@pytest.fixture
def population(session):
    (session.folder / "pbt.yaml").write_text(yaml.safe_dump(POPULATION))
    return session


def journal(session):
    folder = session.folder / "runs" / "p"
    return read(folder) if (folder / "pbt.jsonl").exists() else []


def count(session, event):
    return sum(line["event"] == event for line in journal(session))


def member_of(leader, key):
    """The process that drives a member: it holds the lock of its folder."""
    for process in processes_of(leader):
        try:
            if any(file.path.endswith(f"members/{key}/.lock") for file in process.open_files()):
                return process
        except psutil.Error:
            pass
    return None


def consistent(session):
    """Every member is what the journal says, whole."""
    folder = session.folder / "runs" / "p"
    lines = journal(session)
    assert disagreements(lines) == []
    histories = Journal(folder).members
    for key, history in histories.items():
        run = RunFolder(folder / "members" / key)
        saved = checkpoints.load(run.checkpoints)
        state = saved.run["member"]
        assert history.open is None
        assert (state["generation"], state["parameters"]) == (history.generation, history.parameters)
        learner = run.config.learner
        assert {RATE: learner.learning_rate, COST: learner.entropy_cost} == history.parameters
    return histories


def test_members_take_turns_copy_each_other_and_keep_their_actors(population):
    session = population
    out = session.run("pbt", "pbt.yaml", "run.name=p", "pbt.concurrent=1", "train.env_frames=24_000")
    assert "done after" in out
    histories = consistent(session)
    folder = session.folder / "runs" / "p"
    copies = [line for line in journal(session) if line["event"] == "applied" and line["copied"]]
    assert len(copies) == sum(h.copies for h in histories.values()) >= 1
    assert all(line["digest"] for line in copies)  # what was copied was read back
    for key in histories:
        name = f"p/members/{key}"
        frames = [record["env_frames"] for record in session.records(name)]
        assert frames == sorted(frames)
        assert session.checkpoint(name).meta["env_frames"] >= 24_000
        kinds = session.events(name)
        assert kinds.count("adopted") == histories[key].generation > 0
        assert not {"actor_died", "actor_joined", "learner_died"} & set(kinds)
        assert session.records(name)[-1][f"pbt/{RATE}"] == pytest.approx(histories[key].parameters[RATE])
        board = EventAccumulator(str(folder / "members" / key / "tensorboard")).Reload()
        assert "hparams" in board.summary_metadata["_hparams_/experiment"].plugin_data.plugin_name
        assert "pbt/fitness" in board.Tags()["scalars"]
    session.run("resume", "runs/p", code=0)  # nothing is left to do
    assert "reproduced by a replay" in session.run("report", "runs/p")
    for file in ("lineage.png", "lineage.html", "populations.png", "report.json"):
        assert (folder / "report" / file).stat().st_size > 100
    refused(impala("eval", "runs/p", cwd=session.folder), "is a population; name one of its members")
    assert "catch" in session.run("eval", "runs/p/members/0-01", "--episodes", "3")


def test_deaths_in_the_middle_of_a_copy_leave_every_member_whole(population):
    session = population
    process = session.start("pbt", "pbt.yaml", "run.name=p", "train.env_frames=1e9")
    for victim in ("member", "learner", "controller"):
        applied = count(session, "applied")
        wait_for(lambda before=applied: count(session, "applied") >= before + 2)
        died = count(session, "died")
        seen = len(journal(session))
        deadline = time.monotonic() + 60
        while not (new := [line for line in journal(session)[seen:] if line["event"] == "decision"]):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        if victim == "controller":
            process.kill()
            process.communicate()
            assert not left_behind(process.pid)
            break
        if victim == "member":
            driver = member_of(process.pid, new[0]["member"])
            assert driver is not None
            driver.kill()
            wait_for(lambda before=died: count(session, "died") > before)
        else:
            for learner in actors_of(process, "_Learner"):
                learner.kill()
    again = session.start("resume", "runs/p")
    applied = count(session, "applied")
    wait_for(lambda: count(session, "applied") >= applied + 2, 240)
    session.stop(again)
    histories = consistent(session)
    assert count(session, "died") >= 1
    assert all(history.generation > 0 for history in histories.values())
    events = [event for key in histories for event in session.events(f"p/members/{key}")]
    assert "learner_died" in events
    assert "learner_restarted" in events


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pbt.concurrent=null", "pbt.members=50"), "let them take turns: pbt.concurrent="),
        (("pbt.rule=best",), "no such rule"),
        (("pbt.space={}",), "pbt.space"),
        (("learner.num_gpus=1",), "GPU"),
        (("pbt.concurrent=3",), "more than the 2 members"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(population, overrides, message):
    refused(impala("pbt", "pbt.yaml", "run.name=p", *overrides, cwd=population.folder), message)
    assert not (population.folder / "runs").exists()


def test_a_population_on_a_cluster_that_was_started_in_another_folder(population):
    cluster = Cluster(head_cpus=1)
    try:
        for _ in range(2):
            cluster.add_node(2)
        population.env = cluster.env | {"PYTHONPATH": population.env["PYTHONPATH"]}
        population.run("pbt", "pbt.yaml", "run.name=p", "train.env_frames=8000", "pbt.ready_episodes=100")
    finally:
        cluster.close()
    assert count(population, "done") == 2
    assert consistent(population)
