"""`impala-mi bench` as a user runs it, for times too short to measure anything."""

import json

import pytest

from tests.commands import impala, refused

pytestmark = pytest.mark.integration


def test_training_is_measured(session):
    out = session.run("bench", "train", "tiny.yaml", "--seconds", "3", "--json", "a.json")
    assert "efficiency" in out
    report = json.loads((session.folder / "a.json").read_text())
    [row] = report["rows"]
    assert row["frames/s"] > 0
    assert row["efficiency"] > 0
    assert row["learner busy"] > 0
    assert row["PSS MB"] > 100
    stages = next(note for note in report["notes"] if note.startswith("training"))
    for stage in ("actors", "learner", "driver", "ray"):
        assert stage in stages
    assert not list(session.folder.glob("runs*"))


def test_parts_and_transport_are_measured(session):
    noise = ("env.suite=noise", "env.levels=all", "learner.unroll_length=4", "learner.batch_size=4",
             "actors.envs=4")  # fmt: skip
    one_step = ("learner.unroll_length=1", "learner.batch_size=1", "actors.envs=1")

    def bench(command: str, *args: str) -> str:
        done = impala("bench", command, *noise, *args, cwd=session.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "noise" in bench("envs", "--seconds", "0.2", "--json", "a.json")
    assert "ratio" in bench("envs", "--seconds", "0.2", "--compare", "a.json")
    assert "bfloat16" in bench("inference", "agent.core_width=16", "--seconds", "0.1")
    assert "per_task" in bench("learner", "agent.core_width=16", *one_step, "--seconds", "0.1")
    assert "MB/s" in session.run("bench", "transport", *noise, "--seconds", "1")


def test_a_run_that_fails_is_told(session):
    hopeless = ("env.suite=tests.games:faulty", "env.levels=[hopeless]")
    done = impala("bench", "train", "tiny.yaml", *hopeless, "--seconds", "1", cwd=session.folder)
    assert (done.returncode, "failed" in done.stderr) == (1, True), done
    out = session.run("bench", "train", "tiny.yaml", *hopeless, "--tune", code=1)
    assert "the run ended" in out
    assert "did not start" in out


def test_bad_input_is_told_before_anything_starts(session):
    refused(impala("bench", "train", "actors.cuont=3", cwd=session.folder), "actors.cuont")
    refused(impala("bench", "envs", "env.levels=[nowhere]", cwd=session.folder), "no level 'nowhere'")
