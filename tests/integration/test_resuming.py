"""A resumed run that equals an uninterrupted one; test_failures.py resumes a run that was killed."""

import shutil
import signal

import pytest
import torch

from tests.commands import impala, refused
from tests.integration.session import PACED, wait_for

pytestmark = pytest.mark.integration
FIRST_ATTEMPT = '{"event": "started", "env_frames": 0}\n'


def test_resume_equals_an_uninterrupted_run_bit_for_bit(session):
    runs = session.folder / "runs"
    (runs / "whole").mkdir(parents=True)  # a run that did not get to a checkpoint starts again
    (runs / "whole" / "events.jsonl").write_text(FIRST_ATTEMPT)
    process = session.start(
        "train", "tiny.yaml", "--resume", "auto", "run.name=whole", "train.deterministic=true",
        "train.checkpoint_every_updates=5", "train.env_frames=6000", PACED,
    )  # fmt: skip
    wait_for(lambda: any(event["env_frames"] for event in session.events_of("whole", "checkpoint")))
    process.send_signal(signal.SIGSTOP)
    shutil.copytree(runs / "whole", runs / "again")  # as if the machine had been lost now
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    (aside,) = runs.glob("whole-aside-*")
    assert (aside / "events.jsonl").read_text() == FIRST_ATTEMPT
    assert 0 < session.checkpoint("again").meta["env_frames"] < 6000
    resumed = impala("resume", "runs/again", cwd=session.folder)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resumed" in session.events("again")
    whole, again = session.checkpoint("whole"), session.checkpoint("again")
    assert whole.learner["counters"] == again.learner["counters"]
    assert again.learner["optimizer"]["steps"] == again.learner["counters"]["version"]
    assert whole.run["scores"] == again.run["scores"]
    for key, tensor in whole.agent.items():
        assert torch.equal(tensor, again.agent[key]), key
    for slot, tensors in whole.learner["optimizer"]["slots"].items():
        assert all(map(torch.equal, tensors, again.learner["optimizer"]["slots"][slot])), slot


def test_resuming_by_itself_needs_a_name(session):
    refused(impala("train", "tiny.yaml", "--resume", "auto", cwd=session.folder), "--resume auto needs run.name")
