"""A run's folder is copied whole, and comes back."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from impala_mi.errors import UserError
from impala_mi.runs import mirror as mirrors
from impala_mi.runs.mirror import Mirror, check_mirror
from impala_mi.runs.remote import open_url


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def fetch(url, folder):
    folder.parent.mkdir()
    Mirror(url, folder).pull()


RUN = {
    "config.yaml": "a", "metrics.jsonl": "1\n", "checkpoints/000001/state.pt": "weights",
    "checkpoints/000001/meta.json": "{}", "tensorboard/events.out": "x",
}  # fmt: skip


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    yield f"file://{tmp_path / 'there'}" if request.param == "file" else "memory://bucket/runs"
    fsspec.filesystem("memory").store.clear()


def test_a_folder_comes_back_as_it_was(url, tmp_path):
    run = tmp_path / "a" / "run"
    write(run, RUN | {".lock": "", "checkpoints/.000002.77/state.pt": "half"})
    mirror = Mirror(url, run)
    assert mirror.push() is None
    assert mirror.close() is None
    other = tmp_path / "b" / "run"
    assert Mirror(url, other).newest() == "000001"
    fetch(url, other)
    assert tree(other) == {name: text.encode() for name, text in RUN.items()}, "what is hidden stays here"
    assert Mirror(url, tmp_path / "another").newest() is None


def copied_once(url, run):
    """Mirror of a new run whose first copy is complete."""
    write(run, RUN)
    mirror = Mirror(url, run)
    mirror.push()
    assert mirror._copying.exception() is None
    return mirror


def test_what_is_gone_goes_and_what_changed_is_copied_again(url, tmp_path):
    run = tmp_path / "a" / "run"
    mirror = copied_once(url, run)
    for name in ("state.pt", "meta.json"):
        (run / "checkpoints/000001" / name).unlink()
    write(
        run, {"metrics.jsonl": "1\n2\n", "checkpoints/000003/meta.json": "{}", "checkpoints/000003/state.pt": "y"}
    )
    assert mirror.close() is None
    fetch(url, tmp_path / "b" / "run")
    assert tree(tmp_path / "b" / "run") == tree(run)


def test_a_copy_that_was_interrupted_is_no_checkpoint(url, tmp_path):
    run = tmp_path / "a" / "run"
    write(run, RUN | {"checkpoints/000002/state.pt": "half"})
    assert Mirror(url, run).close() is None
    other = tmp_path / "b" / "run"
    assert Mirror(url, other).newest() == "000001"
    fetch(url, other)
    assert [p.name for p in (other / "checkpoints").iterdir()] == ["000001"]


def test_what_an_earlier_process_copied_and_is_set_aside_goes_too(url, tmp_path):
    run = tmp_path / "a" / "run"
    write(run, RUN | {"checkpoints/000009/state.pt": "z", "checkpoints/000009/meta.json": "{}"})
    assert Mirror(url, run).close() is None
    (run / "checkpoints/000009").rename(run / "checkpoints/abandoned-000009")
    again = Mirror(url, run)
    assert again.close() is None
    assert again.newest() == "000001"


def test_a_fetch_that_fails_leaves_nothing(tmp_path, monkeypatch):
    run = tmp_path / "a" / "run"
    write(run, RUN)
    Mirror("memory://fetch", run).close()
    other = Mirror("memory://fetch", tmp_path / "run")
    monkeypatch.setattr(other._remote, "get_file", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match=r"run.mirror='memory://fetch': cannot be read: OSError: no network"):
        other.pull()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_only_what_changed_is_copied_and_a_checkpoints_meta_last(tmp_path, monkeypatch):
    run = tmp_path / "run"
    write(run, RUN)
    mirror = Mirror("memory://only", run)
    put, names = mirror._remote.put_file, []
    monkeypatch.setattr(mirror._remote, "put_file", lambda a, b: (names.append(b), put(a, b)))
    mirror.push()
    mirror._copying.result()
    assert [n.rpartition("/")[2] for n in names][-1] == "meta.json"
    assert len(names) == len(RUN)
    write(run, {"metrics.jsonl": "1\n2\n"})
    mirror.close()
    assert len(names) == len(RUN) + 1


def failing(*_):
    raise OSError("no network at ftp://me:hunter22@host")


def test_a_failure_is_told_once_and_the_next_copy_makes_up_for_it(tmp_path, monkeypatch):
    run = tmp_path / "run"
    write(run, RUN)
    mirror = Mirror("memory://fails", run)
    put = mirror._remote.put_file
    monkeypatch.setattr(mirror._remote, "put_file", failing)
    assert mirror.push() is None
    mirror._copying.exception()
    monkeypatch.setattr(mirror._remote, "put_file", put)
    assert mirror.push() == "OSError: no network at ftp://***@host"
    assert mirror.close() is None
    fetch("memory://fails", tmp_path / "b" / "run")
    assert tree(tmp_path / "b" / "run") == tree(run)


def test_a_copy_whose_folder_vanished_is_made_whole_again(tmp_path):
    run, there = tmp_path / "run", tmp_path / "there"
    write(run, RUN)
    mirror = Mirror(f"file://{there}", run)
    mirror.push()
    mirror._copying.result()
    shutil.rmtree(there)
    write(run, {"metrics.jsonl": "1\n2\n"})
    mirror.push()
    mirror._copying.exception()
    assert mirror.close() is None
    assert "metrics.jsonl" in tree(there / "run")


def test_a_bucket_that_was_emptied_between_two_copies_is_filled_again(url, tmp_path):
    run = tmp_path / "a" / "run"
    mirror = copied_once(url, run)
    remote, root = open_url(url)
    remote.rm(root, recursive=True)
    remote.makedirs(root)  # made anew at once, as a bucket would be
    write(run, {"metrics.jsonl": "1\n2\n"})
    assert mirror.close() is None
    fetch(url, tmp_path / "b" / "run")
    assert tree(tmp_path / "b" / "run") == tree(run)


def test_a_folder_that_is_gone_takes_nothing_with_it(url, tmp_path):
    run = tmp_path / "a" / "run"
    write(run, RUN)
    mirror = Mirror(url, run)
    assert mirror.push() is None
    assert mirror._copying.exception() is None
    run.rename(tmp_path / "moved")
    assert re.search(r"FileNotFoundError: .* has no files; its copy is left as it is", mirror.close())
    assert Mirror(url, run).newest() == "000001"


def test_a_checkpoint_is_removed_with_its_meta_first(tmp_path, monkeypatch):
    run, removed = tmp_path / "run", []
    write(run, RUN)
    mirror = Mirror("memory://removed", run)
    mirror.push()
    assert mirror._copying.exception() is None
    shutil.rmtree(run / "checkpoints")
    monkeypatch.setattr(mirror._remote, "rm_file", lambda path: removed.append(path.rpartition("/")[2]))
    assert mirror.close() is None
    assert removed == ["meta.json", "state.pt"]


@pytest.mark.slow
def test_a_copy_that_hangs_is_waited_for_in_vain_and_does_not_keep_the_process(tmp_path):
    write(tmp_path / "run", RUN)
    program = (
        "import time; from pathlib import Path; from impala_mi.runs import mirror; mirror.CLOSE_S = 0.1; "
        "m = mirror.Mirror('memory://hangs', Path('run')); m._remote.put_file = lambda *_: time.sleep(1000); "
        "m.push(); print(m.close(), m.failures)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "it has not ended within 0 s 1\n", done.stderr


@pytest.mark.parametrize("url", ["nonsense://x", "s4:/x"])
def test_an_unknown_kind_of_url_is_named(url, tmp_path):
    with pytest.raises(UserError, match=r"run.mirror='(nonsense|s4)"):
        Mirror(url, tmp_path / "run")


# -- before training --


class Buckets(MemoryFileSystem):
    """A bucket store: no folders, `mkdir` makes buckets, and a file needs its bucket and the right secret."""

    protocol = "buckets"
    store: ClassVar[dict[str, object]] = {}
    made: ClassVar[set[str]] = set()

    def __init__(self, password: str = "") -> None:
        super().__init__()
        self.password = password

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("buckets://").partition("@")[2] or path.removeprefix("buckets://")

    @staticmethod
    def _get_kwargs_from_urls(path):
        user, at, _ = path.removeprefix("buckets://").partition("@")
        return {"password": user.partition(":")[2]} if at else {}

    def mkdir(self, path, create_parents=True, **_):
        bucket, _, key = path.partition("/")
        if key and not create_parents and bucket not in self.made:
            raise FileNotFoundError("The specified bucket does not exist")
        self.made.add(bucket)

    def makedirs(self, path, exist_ok=False):
        self.mkdir(path)

    def _check(self, path):
        if self.password != "hunter22":
            raise PermissionError(f"{self.password!r} is wrong")
        if path.partition("/")[0] not in self.made:
            raise FileNotFoundError("The specified bucket does not exist")

    def pipe_file(self, path, value, **_):
        self._check(path)
        self.store[path] = value

    def put_file(self, local, path, **_):
        self.pipe_file(path, Path(local).read_bytes())

    def rm_file(self, path):
        del self.store[path]

    def exists(self, path, **_):
        return any(name.startswith(path) for name in self.store)

    def find(self, path, **_):
        return [name for name in self.store if name.startswith(path + "/")]


@pytest.fixture
def buckets(monkeypatch):
    fsspec.register_implementation("buckets", Buckets, clobber=True)
    monkeypatch.setattr(Buckets, "store", {})
    monkeypatch.setattr(Buckets, "made", {"bucket"})
    check_mirror.cache_clear()
    yield Buckets
    Buckets.clear_instance_cache()


def test_a_probe_leaves_nothing_and_is_made_once(buckets):
    url = "buckets://me:hunter22@bucket/runs"
    check_mirror(url)
    assert buckets.store == {}
    buckets.made.clear()
    check_mirror(url)


def test_a_misspelt_bucket_is_refused_and_not_made(buckets, tmp_path):
    url = "buckets://me:hunter22@buckt/runs"
    with pytest.raises(
        UserError, match=r"^run.mirror='buckets://\*\*\*@buckt/runs': cannot be written to: .* exist$"
    ):
        check_mirror(url)
    write(tmp_path / "run", RUN)
    assert "does not exist" in Mirror(url, tmp_path / "run").close()
    assert buckets.made == {"bucket"}
    assert Mirror(url.replace("buckt", "bucket"), tmp_path / "run").close() is None
    assert set(buckets.store) == {f"bucket/runs/run/{name}" for name in RUN}


def test_a_wrong_password_is_refused_and_not_repeated(buckets):
    with pytest.raises(UserError, match=r"PermissionError: '\*\*\*' is wrong$"):
        check_mirror("buckets://me:hunter23@bucket/runs")


def test_credentials_that_were_left_out_are_asked_for(buckets, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # s3fs would ask the network for some
    with pytest.raises(UserError, match=r"again, or set FSSPEC_BUCKETS_USERNAME and FSSPEC_BUCKETS_PASSWORD$"):
        check_mirror("buckets://***@bucket/runs")
    with pytest.raises(UserError, match=r"again, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY$|s3fs"):
        check_mirror("s3://***@bucket/runs?versionId=***")


def test_credentials_of_the_environment_stand_in_for_those_that_were_left_out(buckets, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "buckets", {"password": "hunter22"})  # FSSPEC_BUCKETS_PASSWORD
    check_mirror("buckets://***@bucket/runs")


def test_a_store_that_does_not_answer_is_refused(buckets, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(mirrors, "PROBE_S", 0.05)
    monkeypatch.setattr(Buckets, "pipe_file", lambda *_: answer.wait(10))
    with pytest.raises(UserError, match="cannot be written to: TimeoutError: no answer within 0 s"):
        check_mirror("buckets://me:hunter22@bucket/silent")
    answer.set()


def test_a_folder_of_this_machine_is_made(tmp_path):
    check_mirror(f"file://{tmp_path}/a/b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_key_and_secret_of_an_s3_url_reach_the_file_system(monkeypatch):
    opened = []
    monkeypatch.setattr(
        fsspec.core, "url_to_fs", lambda url, **options: opened.append((url, options)) or (None, "x")
    )
    for url in (
        "s3://AKIA:se/cr%2Bet@bucket/runs",
        "s3://***@bucket/runs",
        "s3://bucket/runs",
        "ftp://me:x@host/y",
    ):
        open_url(url)
    keyed = {"key": "AKIA", "secret": "se/cr+et"}
    bare = "s3://bucket/runs"
    assert opened == [(bare, keyed), (bare, {}), (bare, {}), ("ftp://me:x@host/y", {})]
