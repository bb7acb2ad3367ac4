"""A run whose bucket fails in every way in which an S3 server can."""

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.integration.session import PACED, Session, left_behind, wait_for

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from tests.integration.s3 import BUCKET, S3, files_of

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def s3(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3()
    session.env |= server.env
    yield server
    server.stop()


def test_a_run_outlives_every_fault_of_its_bucket_and_is_resumed_from_it(session: Session, s3: S3) -> None:
    arguments = ("--resume", "auto", f"run.mirror=s3://{BUCKET}/all", PACED, "train.checkpoint_every_s=1")
    process = session.train(*arguments)

    def status(code: int) -> Callable[[], None]:
        return lambda: setattr(s3, "status", code)

    faults = [
        (status(500), status(200)), (status(403), status(200)), (s3.stop, s3.start),
        (s3.delete_bucket, s3.make_bucket),
    ]  # fmt: skip
    for count, (begin, end) in enumerate(faults):
        failed = len(session.events_of("a", "mirror_failed"))
        begin()
        wait_for(lambda failed=failed: len(session.events_of("a", "mirror_failed")) > failed)
        session.goes_on()
        end()
        wait_for(lambda count=count: len(session.events_of("a", "mirror_recovered")) == count + 1)

    s3.delay_s = 2.0
    checkpoints = session.events("a").count("checkpoint")
    wait_for(lambda: session.events("a").count("checkpoint") > checkpoints + 3)
    s3.delay_s = 0.0
    wait_for(lambda: "all/a/config.yaml" in s3.names())
    s3.delete_bucket()
    s3.make_bucket()  # before a copy is tried: nothing failed, but unchanged files are gone
    wait_for(lambda: "all/a/config.yaml" in s3.names())

    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130, out + err
    assert not left_behind(process.pid)
    assert s3.files("all/a") == files_of(session.folder / "runs/a")
    told = [line.partition(":")[0] for line in err.splitlines() if "run.mirror" in line]
    events = [e for e in session.events("a") if e.startswith("mirror_")]
    assert told.count("warning") == told.count("note") == events.count("mirror_recovered"), err

    first = session.checkpoint("a").meta["env_frames"]
    shutil.rmtree(session.folder / "runs")  # another machine
    process = session.start("train", "tiny.yaml", "run.name=a", f"train.env_frames={first + 4000}", *arguments)
    wait_for(lambda: session.events_of("a", "resumed"))
    assert int(session.events_of("a", "resumed")[-1]["checkpoint"]) == first
    s3.delete_bucket()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, out + err
    assert "the last copy to run.mirror failed: FileNotFoundError: The specified bucket does not exist" in err
    assert session.events("a")[-1] == "mirror_failed"
