"""Whole runs of actors and a learner on Ray."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from impala_mi.learner import checkpoint as checkpoints
from tests.integration.session import actors_of, left_behind, listening_beyond_loopback, wait_for

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
    assert last["env_frames"] == last["agent_steps"] == last["updates"] * 400 >= 300000
    assert last["lag_max"] <= 4
    run = session.folder / "runs" / "a"
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml", "versions.json", "metrics.jsonl", "events.jsonl", "tensorboard", "checkpoints",
    }  # fmt: skip
    assert session.checkpoint("a", "best").meta["score"] > 80


def test_resume_goes_on_where_it_stopped(session):
    session.run("train", "tiny.yaml", "run.name=a", "train.env_frames=20000")
    first = session.checkpoint("a")
    # resources may change: another number of actors and of environments
    session.run("resume", "runs/a", "train.env_frames=40000", "actors.count=1", "actors.envs=5",
                "learner.learning_rate_schedule=constant")  # fmt: skip
    records = session.records("a")
    frames = [r["env_frames"] for r in records]
    assert frames == sorted(frames)
    assert frames[-1] >= 40000
    assert records[-1]["updates"] * 400 == frames[-1]
    times = [r["time_s"] for r in records]
    assert times == sorted(times)
    counts = [r["level/catch/episodes"] for r in records]
    assert counts == sorted(counts)
    assert session.events("a").count("resumed") == 1
    last = session.checkpoint("a")
    assert (
        last.learner["optimizer"]["steps"]
        == last.learner["counters"]["version"]
        > first.learner["counters"]["version"]
    )
    assert last.run["starts"] == 1


def test_resume_equals_an_uninterrupted_run_bit_for_bit(session):
    fixed = ("tiny.yaml", "train.deterministic=true", "train.checkpoint_every_updates=10",
             "train.keep_checkpoints=9")  # fmt: skip
    session.run("train", *fixed, "run.name=whole", "train.env_frames=16000")
    session.run("train", *fixed, "run.name=again", "train.env_frames=16000")
    # a run cut off after its second checkpoint: what came later is lost
    (session.folder / "runs" / "cut").mkdir(parents=True)
    for name in ("config.yaml", "versions.json"):
        text = (session.folder / "runs" / "whole" / name).read_text()
        (session.folder / "runs" / "cut" / name).write_text(text)
    source = session.folder / "runs" / "whole" / "checkpoints"
    kept = checkpoints.steps(source)[1]
    target = session.folder / "runs" / "cut" / "checkpoints" / kept.name
    target.mkdir(parents=True)
    for file in kept.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    session.run("resume", "runs/cut")
    whole, again, cut = (session.checkpoint(name) for name in ("whole", "again", "cut"))
    assert int(kept.name) < whole.meta["env_frames"] == cut.meta["env_frames"]
    for other in (again, cut):
        assert whole.learner["counters"] == other.learner["counters"]
        assert whole.run["scores"] == other.run["scores"]
        for key, tensor in whole.agent.items():
            assert torch.equal(tensor, other.agent[key]), key
        for slot, tensors in whole.learner["optimizer"]["slots"].items():
            assert all(map(torch.equal, tensors, other.learner["optimizer"]["slots"][slot])), slot


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_no_process(session, number):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=1e9")
    metrics = session.folder / "runs" / "a" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text())
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "continue with: impala-mi resume runs/a" in out
    assert not left_behind(process.pid)
    assert session.checkpoint("a").meta["env_frames"] == session.records("a")[-1]["env_frames"]
    assert session.events("a")[-2:] == ["checkpoint", "interrupted"]


@pytest.mark.parametrize("delay", [2.0, 3.0, 4.0])
def test_a_signal_while_ray_starts_leaves_nothing(session, delay):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=1e9")
    time.sleep(delay)  # wherever it is by then
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not left_behind(process.pid)
    run = session.folder / "runs" / "a"
    assert not run.exists() or checkpoints.steps(run / "checkpoints")  # the name is free, or the run can go on


def test_nohup_is_respected(session):
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "impala_mi", "train", "tiny.yaml", "run.name=a", "train.env_frames=30000"],
        cwd=session.folder, env=session.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    metrics = session.folder / "runs" / "a" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text())
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(timeout=120) == 0
    assert session.records("a")[-1]["env_frames"] >= 30000


def test_a_killed_actor_is_replaced(session):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=1e9")
    wait_for(lambda: len(session.records("a")) > 1 if (session.folder / "runs/a/metrics.jsonl").exists() else False)
    actors = actors_of(process)
    assert len(actors) == 2
    assert not listening_beyond_loopback(process)
    actors[0].kill()
    wait_for(lambda: "actor_died" in session.events("a"))
    wait_for(lambda: len(actors_of(process)) == 2)
    seen = len(session.records("a"))
    wait_for(lambda: len(session.records("a")) > seen + 2)
    assert session.records("a")[-1]["actors/restarts"] == 1
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not left_behind(process.pid)


def test_inference_workers_act_for_all_actors_and_are_replaced(session):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=1e9", "actors.inference=central",
                            "inference.workers=2", "actors.count=3", "actors.envs=5")  # fmt: skip
    wait_for(lambda: len(session.records("a")) > 1 if (session.folder / "runs/a/metrics.jsonl").exists() else False)
    workers = actors_of(process, "_InferenceWorker")
    assert len(workers) == 2
    workers[0].kill()
    wait_for(lambda: "inference_died" in session.events("a"))
    seen = len(session.records("a"))
    wait_for(lambda: len(session.records("a")) > seen + 2)
    last = session.records("a")[-1]
    assert last["actors/restarts"] == 1
    assert last["env_frames"] > session.records("a")[seen]["env_frames"]
    assert session.events("a").count("actor_died") == 0
    assert len(actors_of(process)) == 3
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not left_behind(process.pid)


FAULTY = ("env.suite=tests.games:faulty", "actors.count=1", "actors.envs=2", "learner.batch_size=2")


def test_a_level_that_kills_its_process_once_costs_one_actor(session):
    session.run("train", "tiny.yaml", *FAULTY, "env.levels=[killed]", "run.name=a", "train.env_frames=6000")
    assert session.events("a").count("actor_died") == 1
    assert session.records("a")[-1]["env_frames"] >= 6000


def test_a_level_that_always_breaks_ends_the_run_loudly(session):
    out = session.run(
        "train", "tiny.yaml", *FAULTY, "env.levels=[raises]", "run.name=a", "actors.max_restarts=2", code=1
    )
    assert "failed: 3 deaths in an hour, more than actors.max_restarts=2; the last: actor 0" in out
    assert "the level broke" in out


def test_a_level_that_never_starts_ends_the_run_at_once(session):
    out = session.run("train", "tiny.yaml", *FAULTY, "env.levels=[hopeless]", "run.name=a", code=1)
    assert "failed: actor 0: a level did not start 10 times: hopeless" in out
    assert session.events("a").count("actor_died") == 0


def test_rewards_that_are_not_numbers_end_the_run_and_keep_the_last_good_checkpoint(session):
    session.run("train", "tiny.yaml", *FAULTY, "env.levels=[nan]", "run.name=a", "train.env_frames=1000",
                "learner.unroll_length=10")  # fmt: skip
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
    assert max(r["lag_max"] for r in session.records("a")) <= 1
    assert last["level/memory/lag_max"] <= 1
    assert last["env_frames"] >= 20000


def test_a_users_own_envs_and_actors_do_not_matter(session):
    for name in ("envs", "actors", "learner", "configs"):
        (session.folder / name).mkdir()
        (session.folder / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    session.run("train", "tiny.yaml", "run.name=a", "train.env_frames=4000")
    assert session.records("a")[-1]["env_frames"] >= 4000


@pytest.mark.parametrize("command", ["train", "eval"])
def test_an_interrupted_doom_leaves_no_game_and_no_file(session, command):
    temporary = session.folder / "tmp"
    temporary.mkdir()
    session.env |= {"TMPDIR": str(temporary)}
    if command == "eval":
        session.run("train", "smoke", "run.name=a", "train.env_frames=4000")
        process = session.start("eval", "runs/a", "--episodes", "500")
    else:
        process = session.start("train", "smoke", "run.name=a")

    def games() -> int:
        return sum("vizdoom" in p.name() for p in psutil.Process(process.pid).children(recursive=True))

    wait_for(lambda: games() >= 5)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not left_behind(process.pid)
    assert list(temporary.glob("impala-mi-*")) == []


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
