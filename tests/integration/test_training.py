"""Whole runs of actors and a learner on Ray."""

import statistics

import pytest

pytestmark = pytest.mark.integration


def test_one_agent_learns_five_tasks_at_once(session):
    """Memory, words and conditioning (two levels that look the same and want opposite actions)."""
    out = session.run("train", "tiny.yaml", "agent.head=mi_task", "run.name=a", "train.env_frames=300000")
    assert "done after" in out
    last = session.records("a")[-1]
    # Most runs have learnt all of it after 100,000 frames; one in some dozens needed more than 150,000.
    assert last["score/capped_mean"] > 90, {k: v for k, v in last.items() if k.endswith("return_mean")}
    for key in ("time_s", "env_frames", "agent_steps", "updates", "fps", "learner_fps", "lag_mean", "lag_max",
                "loss/total", "level/memory/return_mean"):  # fmt: skip
        assert key in last
    assert last["env_frames"] == last["agent_steps"] == last["updates"] * 400 == 300000  # and no batch more
    lags = [r["lag_max"] for r in session.records("a") if "lag_max" in r]
    assert statistics.median(lags) <= 4  # an actor that the machine lets wait is later once
    run = session.folder / "runs" / "a"
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml", "versions.json", "metrics.jsonl", "events.jsonl", "tensorboard", "checkpoints",
    }  # fmt: skip
    assert session.checkpoint("a", "best").meta["score"] > 80
