"""Whole runs of actors and a learner on Ray."""

import statistics

import pytest

from tests.integration.session import wait_for

pytestmark = pytest.mark.integration

MAX_FRAMES = 300_000
"""Most runs have learnt after 100,000 frames; one in some dozens needed more than 150,000."""


def test_one_agent_learns_five_tasks_at_once(session):
    """Memory, words and conditioning (two levels that look the same and want opposite actions)."""
    process = session.train("agent.head=mi_task")

    def learnt():
        last = session.records("a")[-1]
        assert last["env_frames"] <= MAX_FRAMES, {k: v for k, v in last.items() if k.endswith("return_mean")}
        return last.get("score/capped_mean", 0) > 90

    wait_for(learnt)
    session.stop(process)
    last = session.records("a")[-1]
    assert last["score/capped_mean"] > 85
    keys = set[str]().union(*session.records("a")[-20:])
    for key in ("time_s", "env_frames", "agent_steps", "updates", "fps", "learner_fps", "lag_mean", "lag_max",
                "loss/total", "level/memory/return_mean"):  # fmt: skip
        assert key in keys
    assert last["env_frames"] == last["agent_steps"] == last["updates"] * 400
    lags = [r["lag_max"] for r in session.records("a") if "lag_max" in r]
    assert statistics.median(lags) <= 4  # an actor that the machine lets wait is later once
    run = session.folder / "runs" / "a"
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml", "versions.json", "metrics.jsonl", "events.jsonl", "tensorboard", "checkpoints",
    }  # fmt: skip
    assert session.checkpoint("a", "best").meta["score"] > 80
