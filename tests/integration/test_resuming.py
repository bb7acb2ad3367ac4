"""Runs that go on where another process left them."""

import shutil
from pathlib import Path

import pytest
import torch

from impala_mi.host import reaper
from tests.commands import impala, refused
from tests.integration.session import actors_of, left_behind, wait_for

pytestmark = pytest.mark.integration


def test_resume_goes_on_where_it_stopped(session):
    for name in ("envs", "actors", "learner", "configs"):  # packages of the user's with names of ours
        (session.folder / name).mkdir()
        (session.folder / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
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
    fixed = ("tiny.yaml", "train.deterministic=true", "train.checkpoint_every_updates=10", "train.env_frames=16000")
    session.run("train", *fixed, "run.name=whole")
    process = session.start("train", *fixed, "run.name=again")
    wait_for(lambda: any(event["env_frames"] for event in session.events_of("again", "checkpoint")))
    process.kill()  # what came after the checkpoint is lost
    process.communicate()
    assert not left_behind(process.pid)
    assert int(session.checkpoint("again").path.name) < 16000
    session.run("resume", "runs/again")
    whole, again = session.checkpoint("whole"), session.checkpoint("again")
    assert whole.learner["counters"] == again.learner["counters"]
    assert whole.run["scores"] == again.run["scores"]
    for key, tensor in whole.agent.items():
        assert torch.equal(tensor, again.agent[key]), key
    for slot, tensors in whole.learner["optimizer"]["slots"].items():
        assert all(map(torch.equal, tensors, again.learner["optimizer"]["slots"][slot])), slot


def test_a_job_that_is_resubmitted_goes_on_where_its_driver_was_killed(session):
    arguments = ("--resume", "auto", "learner.max_restarts=5", f"run.mirror=file://{session.folder}/mirror")
    process = session.train(*arguments, "train.checkpoint_every_s=1")
    with_two = session.run("train", "tiny.yaml", "run.name=a", *arguments, "train.env_frames=1e9", code=2)
    assert "is being trained by another process" in with_two
    wait_for(lambda: len(list((session.folder / "mirror/a/checkpoints").glob("0*/meta.json"))) > 1)
    (learner,) = actors_of(process, "_Learner")
    ray_folder = Path(learner.environ()[reaper.MARK])
    assert ray_folder.is_dir()
    process.kill()
    process.communicate()
    assert not left_behind(process.pid)
    wait_for(lambda: not ray_folder.exists(), 10)
    before = session.checkpoint("a").meta["env_frames"]
    goal = f"train.env_frames={before + 20000}"
    session.run("train", "tiny.yaml", "run.name=a", *arguments, goal)
    (resumed,) = session.events_of("a", "resumed")
    assert int(resumed["checkpoint"]) == before
    assert "the run is done" in session.run("train", "tiny.yaml", "run.name=a", *arguments, goal)
    # Another machine finds it at the mirror.
    shutil.rmtree(session.folder / "runs")
    session.run("train", "tiny.yaml", "run.name=a", *arguments, f"train.env_frames={before + 40000}")
    assert int(session.events_of("a", "resumed")[-1]["checkpoint"]) >= before + 20000
    assert session.checkpoint("a").meta["env_frames"] >= before + 40000


def test_a_run_that_did_not_get_to_a_checkpoint_starts_again(session):
    folder = session.folder / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("what it was\n")
    session.run("train", "tiny.yaml", "run.name=a", "--resume", "auto", "train.env_frames=5000")
    (aside,) = (session.folder / "runs").glob("a-aside-*")
    assert (aside / "events.jsonl").read_text() == "what it was\n"


def test_resuming_by_itself_needs_a_name(session):
    refused(impala("train", "tiny.yaml", "--resume", "auto", cwd=session.folder), "--resume auto needs run.name")
