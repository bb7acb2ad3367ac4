"""The recorder: what is opened and closed, in which order."""

import json
import math
import threading

import pytest

from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.learner.update import Counters
from impala_mi.runs.folder import RunFolder
from impala_mi.runs.sinks import BackgroundSink, Sink, Sinks
from impala_mi.training import recorder as recorders
from impala_mi.training.recorder import Recorder
from tests.tiny import tiny_config


def make(folder, *overrides):
    config = tiny_config(*overrides)
    return Recorder(config, make_suite(config.env), RunFolder(folder), None, lambda record: None)


def test_no_sink_is_opened_for_an_invalid_mirror(monkeypatch, tmp_path):
    monkeypatch.setattr(recorders, "make_sinks", lambda *_: pytest.fail("they would stay open"))
    with pytest.raises(UserError, match=r"^run.mirror="):
        make(tmp_path, "run.mirror=nonsense://x")


def test_skipped_updates_are_an_event_with_their_levels(tmp_path):
    records = []
    config = tiny_config("train.log_every_s=0.001")
    recorder = Recorder(config, make_suite(config.env), RunFolder(tmp_path), None, records.append)
    for loss in (1.0, math.nan, math.inf, 2.0):
        recorder.on_update({"loss/total": loss, "learner/grad_norm": 1.0}, [([0, 0, 1], 0), ([1, 1, 1], 0)])
    recorder.log(Counters(updates=4, env_frames=40, skipped=2), {})
    recorder.on_update({"loss/total": 1.0, "learner/grad_norm": 1.0}, [([0], 0)])
    recorder.log(Counters(updates=5, env_frames=50, skipped=2), {})
    recorder.close()
    [event] = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (event["event"], event["updates"]) == ("updates_skipped", 2)
    assert event["rollouts_by_level"] == {"memory": 4, "catch": 2}
    assert [record["learner/skipped_updates"] for record in records] == [2, 2]


@pytest.mark.parametrize("full_disk", [False, True])
def test_the_files_are_closed_then_copied_and_slow_sinks_are_waited_for_last(monkeypatch, tmp_path, full_disk):
    order, copied = [], threading.Event()

    class File(Sink):
        def close(self):
            order.append("file")
            if full_disk:
                raise OSError("no space left on device")

    class Slow(Sink):
        def close(self):
            assert copied.wait(10)
            order.append("slow")

    class Mirror:
        def __init__(self, url, folder):
            pass

        def close(self):
            order.append("mirror")
            copied.set()

    sinks = Sinks([File()], {"slow": BackgroundSink(Slow, "slow")})
    monkeypatch.setattr(recorders, "make_sinks", lambda *_: sinks)
    monkeypatch.setattr(recorders, "Mirror", Mirror)
    make(tmp_path, "run.mirror=memory://x").close()
    assert order == ["file", "mirror", "slow"]
