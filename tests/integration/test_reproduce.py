"""`impala-mi reproduce multitask`, interrupted and gone on with."""

import json

import pytest

from tests.integration.session import wait_for

pytestmark = pytest.mark.integration


def test_heads_are_compared_though_interrupted(session):
    """Its runs are processes of their own: an interrupt reaches the one that trains, and the next call goes on."""
    args = [
        "reproduce", "multitask", "tiny.yaml", "--seeds", "2", "--episodes", "2", "--out", "out",
        "env.levels=[catch,memory]", "train.env_frames=6_000", "actors.count=1", "env.suite=tests.games:paced",
    ]  # fmt: skip
    runs, parts = session.folder / "out" / "runs", session.folder / "out" / "parts"
    process = session.start(*args)
    wait_for(lambda: _lines(runs / "shared-1" / "metrics.jsonl"))
    session.stop(process)
    assert _lines(runs / "shared-1" / "metrics.jsonl")[-1]["env_frames"] < 6_000
    process = session.start(*args)
    wait_for((parts / "shared-1.json").exists)
    session.stop(process)
    assert json.loads((parts / "shared-1.json").read_text())["scores"].keys() == {"catch", "memory"}
    events = [line["event"] for line in _lines(runs / "shared-1" / "events.jsonl")]
    assert (events.count("interrupted"), events.count("resumed"), events[-1]) == (1, 1, "done")


def _lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
