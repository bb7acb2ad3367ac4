"""Runs that are stopped, and what they leave."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from impala_mi.runs import checkpoint as checkpoints
from tests.integration.session import left_behind, wait_for

pytestmark = pytest.mark.integration


def test_a_signal_leaves_a_checkpoint_and_no_process(session):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=1e9")
    metrics = session.folder / "runs" / "a" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text())
    os.kill(process.pid, signal.SIGTERM)  # `Session.stop` sends SIGINT
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "continue with: impala-mi resume runs/a" in out
    assert not left_behind(process.pid)
    assert session.checkpoint("a").meta["env_frames"] == session.records("a")[-1]["env_frames"]
    assert session.events("a")[-2:] == ["checkpoint", "interrupted"]


def test_a_signal_while_ray_starts_leaves_nothing(session):
    process = session.start("train", "tiny.yaml", "run.name=a", "train.env_frames=1e9")
    time.sleep(3)  # wherever it is by then
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not left_behind(process.pid)
    run = session.folder / "runs" / "a"
    assert not run.exists() or checkpoints.steps(run / "checkpoints")  # the name is free, or the run can go on


@pytest.mark.parametrize("module", ["numpy.version", "numpy", "torch._C", "ray"])
def test_a_signal_within_an_import_is_not_lost(session, module):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "impala_mi", "train", "tiny.yaml", "run.name=a"],
        cwd=session.folder, env=session.env, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    session.processes.append(process)
    assert process.stderr is not None
    for line in process.stderr:  # a line for every module, once it is imported
        if line.split()[-1:] == [module]:
            os.kill(process.pid, signal.SIGTERM)
            break
    assert "interrupted" in process.stderr.read().splitlines()
    assert process.wait(timeout=60) == 130
    assert not (session.folder / "runs" / "a").exists()


def test_nohup_is_respected(session):
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "impala_mi", "train", "tiny.yaml", "run.name=a", "train.env_frames=30000"],
        cwd=session.folder, env=session.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    metrics = session.folder / "runs" / "a" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text())
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(timeout=240) == 0
    assert session.records("a")[-1]["env_frames"] >= 30000


def test_an_interrupted_doom_leaves_no_game_and_no_file(session):
    temporary = session.folder / "tmp"
    temporary.mkdir()
    session.env |= {"TMPDIR": str(temporary)}
    for command in (("train", "smoke", "run.name=a"), ("eval", "runs/a", "--episodes", "500")):
        process = session.start(*command)
        wait_for(lambda process=process: games(process) >= 5)
        if command[0] == "train":
            wait_for(lambda: session.records("a"))
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        assert not left_behind(process.pid)
        assert list(temporary.glob("impala-mi-*")) == []


def games(process):
    return sum("vizdoom" in p.name() for p in psutil.Process(process.pid).children(recursive=True))
