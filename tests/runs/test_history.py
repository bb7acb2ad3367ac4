"""What is read of a run's folder, whatever state it is in."""

import itertools
import json

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from impala_mi.errors import UserError
from impala_mi.runs import history
from impala_mi.runs.history import MAX_RECORDS, read, read_run


def record(i, **more):
    return {"env_frames": 100 * i, "time_s": float(i), "level/b/episodes": 1, "level/a/episodes": 2, **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record(i, fps=5.0)) + "\n" for i in range(1, 11)))
    (tmp_path / "config.yaml").write_text("seed: 3\nagent:\n  head: shared\nenv: {levels: [a, b]}\n")
    (tmp_path / "events.jsonl").write_text('{"time": "x", "event": "started"}\n{"time": "y", "event": "done"}\n')
    return tmp_path


def test_a_run(folder):
    run = read(str(folder))
    assert run.name == folder.name
    assert (run.status, run.levels) == ("done", ["b", "a"])
    assert run.settings == {"seed": 3, "agent.head": "shared", "env.levels": ["a", "b"]}
    assert run.series("fps") == ([100 * i for i in range(1, 11)], [5.0] * 10)
    assert run.series("no such") == ([], [])
    assert run.last["env_frames"] == 1000


def test_columns_hold_every_record_of_a_run(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        for i in range(11, 2 * MAX_RECORDS):
            file.write(json.dumps(record(i, new=0.5)) + "\n")
        file.write('{"env_frames": 1, "time_')  # its writing was cut off
    (folder / "checkpoints").mkdir()
    for name in ("000000000000300", "000000000000020", "abandoned-000000000000900-1"):
        (folder / "checkpoints" / name).mkdir()
        (folder / "checkpoints" / name / "meta.json").touch()
    run = read_run(folder)
    columns = run.metrics
    assert run.checkpoints == ["000000000000020", "000000000000300"]
    assert [event["event"] for event in run.events] == ["started", "done"]
    assert run.config == {"seed": 3, "agent": {"head": "shared"}, "env": {"levels": ["a", "b"]}}
    assert set(columns) == {"env_frames", "time_s", "level/b/episodes", "level/a/episodes", "fps", "new"}
    assert all(column.shape == (2 * MAX_RECORDS - 1,) for column in columns.values())
    assert columns["env_frames"].dtype == np.int64
    assert columns["env_frames"].tolist() == [100 * i for i in range(1, 2 * MAX_RECORDS)]
    assert columns["fps"][:10].tolist() == [5.0] * 10
    assert np.isnan(columns["fps"][10:]).all()
    assert np.isnan(columns["new"][:10]).all()
    assert columns["time_s"].dtype == np.float64


def test_columns_of_a_run_without_records(folder, tmp_path):
    (folder / "metrics.jsonl").unlink()
    run = read_run(str(folder))
    assert (run.metrics, run.checkpoints) == ({}, [])
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "none")


def test_a_copy_elsewhere(folder):
    run = read(f"file://{folder}")
    assert (run.status, len(run.records)) == ("done", 10)
    with pytest.raises(UserError, match="cannot be read"):
        read("nonsense://a/b")


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read(str(tmp_path / "none"))


def test_a_folder_of_no_run(tmp_path):
    (tmp_path / "first").mkdir()
    with pytest.raises(UserError, match="is not a run"):
        read(str(tmp_path))


def test_an_empty_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    run = read(str(tmp_path))
    assert (run.status, run.records, run.settings, run.last, run.levels) == ("empty", [], {}, {}, [])


@pytest.mark.parametrize(
    ("events", "status"),
    [
        (["started"], "unfinished"),
        (["started", "done", "started"], "unfinished"),
        (["started", "failed", "started", "interrupted"], "interrupted"),
        (["started", *["fault"] * 500, "failed"], "failed"),
    ],
)
def test_how_it_ended(folder, events, status):
    (folder / "events.jsonl").write_text("".join(json.dumps({"time": "x", "event": e}) + "\n" for e in events))
    run = read(str(folder))
    assert run.status == status
    assert run.events.total() == len(events)


def test_what_was_not_written_to_its_end_is_passed_over(folder):
    for name in ("metrics.jsonl", "events.jsonl"):
        with open(folder / name, "a") as f:
            f.write('{"env_frames": 1100, "event": "fai')
    with open(folder / "metrics.jsonl", "ab") as f:
        f.write(b"\n\xff\xfe\n[1]\n17\n{}\n")
    (folder / "config.yaml").write_text("agent: [\n")
    (folder / "eval").mkdir()
    (folder / "eval" / "1.json").write_text('{"levels": [')
    (folder / "eval" / "2.json").write_text('{"levels":\n []}')
    run = read(str(folder))
    assert (len(run.records), run.status, run.settings, run.evaluations) == (10, "done", {}, [{"levels": []}])


@pytest.mark.parametrize("small", [0, history.MAX_WHOLE_BYTES])
def test_long_logs_are_read_in_samples_that_hold_both_ends(folder, monkeypatch, small):
    monkeypatch.setattr(history, "MAX_WHOLE_BYTES", small)
    n = 20_000
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in range(1, n + 1)))
    frames = [r["env_frames"] for r in read(str(folder)).records]
    assert frames == sorted(set(frames))
    assert (frames[0], frames[-1]) == (100, 100 * n)
    assert MAX_RECORDS * 0.95 <= len(frames) <= MAX_RECORDS + 2
    assert max(b - a for a, b in itertools.pairwise(frames)) < 100 * n * 3 / MAX_RECORDS


def test_of_a_large_log_no_more_is_parsed(folder, monkeypatch):
    monkeypatch.setattr(history, "MAX_WHOLE_BYTES", 0)
    n, parsed, loads = 20_000, [], json.loads
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in range(1, n + 1)))
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(text) or loads(text))
    read(str(folder))
    assert len(parsed) < MAX_RECORDS + 10


@pytest.mark.parametrize("small", [0, history.MAX_WHOLE_BYTES])
def test_the_last_record_is_the_last_that_is_whole(folder, monkeypatch, small):
    monkeypatch.setattr(history, "MAX_WHOLE_BYTES", small)
    with open(folder / "metrics.jsonl", "a") as f:
        f.writelines(json.dumps(record(i)) + "\n" for i in range(11, 5001))
        f.write('{"env_frames": 5001')
    frames = [r["env_frames"] for r in read(str(folder)).records]
    assert frames[-1] == 500_000
    assert frames == sorted(set(frames))


def test_names_of_levels_may_hold_slashes(folder):
    line = {"env_frames": 1, "level/ALE/Pong-v5/episodes": 2, "level/ALE/Breakout-v5/episodes": 3}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert read(str(folder)).levels == ["ALE/Pong-v5", "ALE/Breakout-v5"]


def test_bytes_that_are_no_text_are_passed_over(folder):
    with open(folder / "events.jsonl", "ab") as f:
        f.write(b'{"event": "\xff\xfe"}\n')
    run = read(str(folder))
    assert (run.events, run.skipped) == ({"started": 1, "done": 1}, 1)


def test_an_event_that_is_being_written_is_not_damaged(folder):
    with open(folder / "events.jsonl", "a") as f:
        f.write('{"time": "x", "event": "failed", "mess')
    run = read(str(folder))
    assert (run.events, run.status, run.skipped) == ({"started": 1, "done": 1}, "done", 0)
    with open(folder / "events.jsonl", "a") as f:
        f.write('age": "y"}')
    assert read(str(folder)).status == "failed"


@pytest.mark.parametrize("small", [0, history.MAX_WHOLE_BYTES])
@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_damaged_line_counts_once_however_long(folder, monkeypatch, name, small):
    monkeypatch.setattr(history, "MAX_WHOLE_BYTES", small)
    monkeypatch.setattr(history, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(history, "_TAIL_BYTES", 2000)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole + b"x" * 500 + b"\r" + b"x" * 5000 + b"\n" + whole)
    assert read(str(folder)).skipped == 1


@pytest.mark.parametrize("digits", [20, 200])
def test_numbers_over_64_bits_are_skipped_and_counted(folder, digits):
    with open(folder / "metrics.jsonl", "a") as f:
        f.write(json.dumps(record(11, frames=int("9" * digits))) + "\n" + json.dumps(record(12)) + "\n")
    run = read_run(folder)
    assert (run.skipped, run.metrics["env_frames"].tolist()) == (1, [*range(100, 1001, 100), 1200])
    assert run.metrics["env_frames"].dtype == np.int64
    assert read(str(folder)).skipped == 1


class BucketFile(AbstractBufferedFile):
    """File that is fetched in parts, as those of buckets."""

    def _fetch_range(self, start, end):
        return self.fs.store[self.path].getvalue()[start:end]


class BucketOfFiles(MemoryFileSystem):
    protocol = "bucketoffiles"

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("bucketoffiles://").rpartition("@")[2].strip("/")

    def _open(self, path, mode="rb", **options):
        if mode != "rb":
            return super()._open(path, mode, **options)
        return BucketFile(self, path, mode, size=self.size(path))


def test_a_copy_in_a_bucket_is_read_as_the_folder(folder):
    fsspec.register_implementation("bucketoffiles", BucketOfFiles, clobber=True)
    bucket = BucketOfFiles()
    for name in ("metrics.jsonl", "config.yaml", "events.jsonl"):
        bucket.pipe_file(f"/runs/a/{name}", (folder / name).read_bytes())
    here, there = read(str(folder)), read("bucketoffiles://me:hunter22@runs/a")
    assert there.path == "bucketoffiles://***@runs/a"
    assert there.status == "done"
    assert (there.records, there.events, there.settings) == (here.records, here.events, here.settings)
    assert read_run("bucketoffiles://runs/a").metrics.keys() == read_run(folder).metrics.keys()
    bucket.rm("/runs", recursive=True)
