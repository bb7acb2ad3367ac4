"""`impala-mi bench` as a user runs it, for times too short to measure anything."""

import json
import re

import pytest

from tests.commands import impala, refused
from tests.integration.session import ROOT

pytestmark = pytest.mark.integration


def test_training_is_measured(session):
    out = session.run("bench", "train", "tiny.yaml", "--seconds", "1", "--json", "a.json")
    assert "efficiency" in out
    report = json.loads((session.folder / "a.json").read_text())
    [row] = report["rows"]
    assert row["frames/s"] > 0
    assert row["efficiency"] > 0
    assert row["learner busy"] > 0
    assert row["PSS MB"] > 100
    alone = next(note for note in report["notes"] if note.startswith("parts alone"))
    parts = dict(re.findall(r"(\w+) (\d+)(?:,|$)", alone.partition(": ")[2]))
    assert set(parts) == {"environments", "acting", "learning"}
    assert int(parts["acting"]) > 0
    assert int(parts["learning"]) > 0
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
    assert "MB/s" in bench("transport", "--seconds", "0.5")


def test_a_part_or_a_run_that_fails_is_told(session, monkeypatch):
    monkeypatch.setattr("impala_mi.host.threads.cores", lambda: 1)  # one process of the parts
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def bench(*args):
        done = impala("bench", "train", "tiny.yaml", *args, "--seconds", "1", cwd=session.folder)
        assert done.returncode == 1, done
        return done.stderr

    assert "failed: a level did not start 10 times" in bench(
        "env.suite=tests.games:faulty", "env.levels=[hopeless]"
    )
    (session.folder / "elsewhere").mkdir()
    (session.folder / "elsewhere" / "own.py").write_text("from tests.games import faulty")
    monkeypatch.syspath_prepend(session.folder / "elsewhere")  # here, and not in the process of the run
    told = bench("env.suite=own:faulty", "env.levels=[hopeless]", "--tune")
    assert "failed: the run ended: error: " in told
    assert "No module named 'own'" in told


def test_bad_input_is_told_before_anything_starts(session):
    refused(impala("bench", "train", "actors.cuont=3", cwd=session.folder), "actors.cuont")
    refused(impala("bench", "envs", "env.levels=[nowhere]", cwd=session.folder), "no level 'nowhere'")
