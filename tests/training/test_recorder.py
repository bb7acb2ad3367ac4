"""The recorder: what is opened and closed, in which order."""

import threading

import pytest

from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
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
