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


def test_rewards_that_are_not_numbers_end_the_run_and_keep_the_last_good_checkpoint(session):
    session.run("train", "tiny.yaml", "env.suite=tests.games:faulty", "env.levels=[nan]", "run.name=a",
                "actors.count=1", "actors.envs=2", "learner.batch_size=2", "learner.unroll_length=10",
                "train.env_frames=1000")  # fmt: skip
    last = session.records("a")[-1]
    assert last["learner/skipped_updates"] > 0  # and training went on
    assert last["updates"] > last["learner/skipped_updates"]
    good = session.checkpoint("a")
    assert all(tensor.isfinite().all() for tensor in good.agent.values())
    out = session.run("resume", "runs/a", "train.env_frames=1e9", "learner.max_bad_updates=1", code=1)
    assert "not finite" in out
    assert session.checkpoint("a").meta == good.meta


def test_stale_unrolls_are_discarded_and_counted(session):
    session.run("train", "tiny.yaml", "run.name=a", "learner.max_policy_lag=1", "learner.batch_size=10",
                "actors.count=3", "train.env_frames=20000")  # fmt: skip
    last = session.records("a")[-1]
    assert last["actors/discarded_unrolls"] > 0
    assert max(r.get("lag_max", 0) for r in session.records("a")) <= 1
    assert last["level/memory/lag_max"] <= 1
    assert last["env_frames"] >= 20000


def test_a_users_own_envs_and_actors_do_not_matter(session):
    for name in ("envs", "actors", "learner", "configs"):
        (session.folder / name).mkdir()
        (session.folder / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    session.run("train", "tiny.yaml", "run.name=a", "train.env_frames=4000")
    assert session.records("a")[-1]["env_frames"] >= 4000


def test_doom_trains_scores_and_draws(session):
    session.run("train", "smoke", "run.name=a", "train.env_frames=20000", "train.log_every_s=1")
    last = session.records("a")[-1]
    assert last["env_frames"] == 4 * last["agent_steps"]
    out = session.run("eval", "runs/a", "--episodes", "2", "--against-random")
    assert "health_gathering" in out
    session.run("tsne", "runs/a", "--episodes", "1")
    assert list((session.folder / "runs" / "a" / "tsne").glob("*.png"))
    litter = {p.name for p in session.folder.iterdir()} - {"runs", "tiny.yaml"}
    assert litter == set()
