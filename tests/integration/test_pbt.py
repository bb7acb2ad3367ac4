"""Whole populations: copies, turns, deaths in the middle of a copy."""

import time

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.commands import impala, refused
from tests.integration.population import RATE, consistent, count, journal
from tests.integration.session import PACED, actors_of, left_behind, processes_of, wait_for

pytestmark = pytest.mark.integration


def command(session, *args):
    """Output of a command in this process."""
    done = impala(*args, cwd=session.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def member_of(leader, key):
    """The process that drives a member: it holds the lock of its folder."""
    for process in processes_of(leader):
        try:
            if any(file.path.endswith(f"members/{key}/.lock") for file in process.open_files()):
                return process
        except psutil.Error:
            pass
    return None


def test_members_take_turns_copy_each_other_and_keep_their_actors(population):
    session = population
    out = command(session, "pbt", "pbt.yaml", "run.name=p", "pbt.concurrent=1", "pbt.ready_episodes=100",
                  "train.env_frames=6000", PACED)  # fmt: skip
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
        assert session.checkpoint(name).meta["env_frames"] >= 6000
        kinds = session.events(name)
        assert kinds.count("adopted") == histories[key].generation > 0
        assert not {"actor_died", "actor_joined", "learner_died"} & set(kinds)
        assert session.records(name)[-1][f"pbt/{RATE}"] == pytest.approx(histories[key].parameters[RATE])
        board = EventAccumulator(str(folder / "members" / key / "tensorboard")).Reload()
        assert "hparams" in board.summary_metadata["_hparams_/experiment"].plugin_data.plugin_name
        assert "pbt/fitness" in board.Tags()["scalars"]
    command(session, "resume", "runs/p")  # nothing is left to do
    assert "reproduced by a replay" in command(session, "report", "runs/p")
    for file in ("lineage.png", "lineage.html", "populations.png", "report.json"):
        assert (folder / "report" / file).stat().st_size > 100
    refused(impala("eval", "runs/p", cwd=session.folder), "is a population; name one of its members")
    assert "catch" in command(session, "eval", "runs/p/members/0-01", "--episodes", "3")


def test_deaths_in_the_middle_of_a_copy_leave_every_member_whole(population):
    session = population
    process = session.start("pbt", "pbt.yaml", "run.name=p", "train.env_frames=1e9", "pbt.ready_episodes=100",
                            PACED)  # fmt: skip
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
