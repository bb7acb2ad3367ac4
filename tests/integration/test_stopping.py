"""Runs that are stopped, and what they leave."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from impala_mi.runs import checkpoint as checkpoints
from tests.commands import impala
from tests.integration.session import left_behind, wait_for

pytestmark = pytest.mark.integration


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


def test_doom_trains_scores_draws_and_leaves_no_game_when_it_is_stopped(session):
    temporary = session.folder / "tmp"
    temporary.mkdir()
    session.env |= {"TMPDIR": str(temporary)}

    def stopped(process):
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        assert not left_behind(process.pid)
        assert list(temporary.glob("impala-mi-*")) == []

    process = session.start("train", "smoke", "run.name=a", "train.log_every_s=0.25", "actors.count=1")
    wait_for(lambda: session.records("a") and session.records("a")[-1]["env_frames"] >= 4000)
    assert games(process) >= 5
    stopped(process)
    last = session.records("a")[-1]
    assert last["env_frames"] == 4 * last["agent_steps"]
    done = impala("eval", "runs/a", "--episodes", "2", "--against-random", cwd=session.folder)
    assert (done.returncode, "health_gathering" in done.stdout) == (0, True), done
    assert impala("tsne", "runs/a", "--episodes", "1", cwd=session.folder).returncode == 0
    assert games() == 0
    assert list((session.folder / "runs" / "a" / "tsne").glob("*.png"))
    process = session.start("eval", "runs/a", "--episodes", "500")
    wait_for(lambda: games(process) >= 5)
    stopped(process)
    assert {p.name for p in session.folder.iterdir()} == {"runs", "tiny.yaml", "tmp"}


def games(process=None):
    """Number of games below a process, by default this one."""
    root = psutil.Process(None if process is None else process.pid)
    return sum("vizdoom" in p.name() for p in root.children(recursive=True))
