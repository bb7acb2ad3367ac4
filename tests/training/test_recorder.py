"""The recorder: what is opened and closed, in which order."""

import contextlib
import dataclasses
import json
import math
import threading
from types import SimpleNamespace

import pytest
import torch

from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.learner.update import Counters, Learner
from impala_mi.runs.folder import RunFolder
from impala_mi.runs.sinks import BackgroundSink, Sink, Sinks
from impala_mi.training import recorder as recorders
from impala_mi.training.recorder import Recorder
from impala_mi.types import EnvStats, RolloutInfo
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


def test_levels_compile_until_the_first_rollout_with_a_reset(tmp_path):
    config, records = tiny_config("train.log_every_s=0.001"), []
    suite = make_suite(config.env)
    suite = dataclasses.replace(suite, compiles=tuple(suite.level_names[1:4]))
    recorder = Recorder(config, suite, RunFolder(tmp_path), None, records.append)
    for level, resets in ((0, [1.0]), (1, []), (1, [60.0, 2.0]), (3, [70.0])):
        recorder.on_rollout(RolloutInfo(0, 1, env_stats=[EnvStats(level, reset_s=resets)]))
        recorder.log(Counters(env_frames=len(records) + 1), {})
    recorder.close()
    assert [record["levels/compiling"] for record in records] == [3, 3, 2, 1]


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
        failures = 0

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


class FailingMirror:
    """Mirror whose copies fail for the reasons given in turn."""

    def __init__(self, *reasons):
        self.reasons, self.failures = list(reasons), 0

    def push(self):
        reason = self.reasons.pop(0)
        self.failures = 0 if reason is None else self.failures + 1
        return reason

    close = push


def state_of(config, suite):
    return Learner(config, suite.spaces, 1, torch.device("cpu")).state()


def test_a_copy_that_fails_is_said_on_the_terminal_and_in_the_events(monkeypatch, tmp_path, capsys):
    said = []

    class Said(Sink):
        def event(self, kind, details):
            said.append((kind, details.get("error")))

    gone = "OSError: ftp://me:hunter22@host is gone"
    reasons = [None, gone, gone, gone, None, None, None]
    monkeypatch.setattr(recorders, "make_sinks", lambda *_: Sinks([Said()]))
    monkeypatch.setattr(recorders, "Mirror", lambda *_: FailingMirror(*reasons))
    config = tiny_config("run.mirror=memory://x")
    suite = make_suite(config.env)
    recorder = Recorder(config, suite, RunFolder(tmp_path), None, lambda record: None)
    for _ in range(6):
        recorder.save(state_of(config, suite))
    recorder.close()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    failed = [event["error"] for event in events if event["event"] == "mirror_failed"]
    assert failed == [error for kind, error in said if kind == "mirror_failed"]
    assert failed == ["OSError: ftp://***@host is gone"] * 3
    assert [event["failures"] for event in events if event["event"] == "mirror_recovered"] == [3]
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: no copy to run.mirror: OSError: ftp://***@host is gone; training goes on")
    assert last == "note: the copy in run.mirror is whole again, after 3 that failed"
    assert not recorder.mirror_failed, "a later copy held everything"


def test_a_copy_that_succeeds_again_at_the_end_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recorders, "Mirror", lambda *_: FailingMirror("OSError: gone", None))
    config = tiny_config("run.mirror=memory://x")
    suite = make_suite(config.env)
    recorder = Recorder(config, suite, RunFolder(tmp_path), None, lambda record: None)
    recorder.save(state_of(config, suite))
    recorder.close()
    assert not recorder.mirror_failed
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])["event"] == "mirror_recovered"
    assert capsys.readouterr().err.endswith("note: the copy in run.mirror is whole again, after 1 that failed\n")


def test_the_last_copy_that_fails_is_said_and_remembered(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recorders, "Mirror", lambda *_: FailingMirror("OSError: gone"))
    recorder = make(tmp_path, "run.mirror=memory://x")
    recorder.close()
    assert recorder.mirror_failed
    assert "the last copy to run.mirror failed: OSError: gone; the newest state is in" in capsys.readouterr().err
    assert json.loads((tmp_path / "events.jsonl").read_text())["event"] == "mirror_failed"


@pytest.mark.parametrize(
    ("status", "mirror_failed", "code"),
    [("done", False, 0), ("done", True, 1), ("interrupted", False, 130), ("interrupted", True, 130)],
)
def test_exit_codes_of_a_run(monkeypatch, tmp_path, status, mirror_failed, code):
    from impala_mi.cli.run_training import run_training
    from impala_mi.training import trainer

    class Trainer:
        recorder = SimpleNamespace(mirror_failed=False)

        def __init__(self, *_):
            pass

        def run(self):
            return trainer.Result(status, Counters(), tmp_path / "checkpoints" / "1", None)

        def close(self):
            self.recorder.mirror_failed = mirror_failed

    monkeypatch.setattr(trainer, "Trainer", Trainer)
    monkeypatch.setattr(trainer, "running_ray", lambda *_: contextlib.nullcontext())
    assert run_training(tiny_config(), RunFolder(tmp_path), None) == code
