"""A run's folder is copied whole, and comes back."""

import fsspec
import pytest

from impala_mi.errors import UserError
from impala_mi.runs.mirror import Mirror


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


def test_what_is_gone_goes_and_what_changed_is_copied_again(url, tmp_path):
    run = tmp_path / "a" / "run"
    write(run, RUN)
    mirror = Mirror(url, run)
    mirror.push()
    assert mirror._copying.exception() is None
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


def test_a_failure_is_told_once_and_the_next_copy_makes_up_for_it(tmp_path, monkeypatch):
    run = tmp_path / "run"
    write(run, RUN)
    mirror = Mirror("memory://fails", run)
    put = mirror._remote.put_file
    monkeypatch.setattr(mirror._remote, "put_file", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    assert mirror.push() is None
    mirror._copying.exception()
    monkeypatch.setattr(mirror._remote, "put_file", put)
    assert str(mirror.push()) == "no network"
    assert mirror.close() is None
    fetch("memory://fails", tmp_path / "b" / "run")
    assert tree(tmp_path / "b" / "run") == tree(run)


@pytest.mark.parametrize("url", ["nonsense://x", "s4:/x"])
def test_an_unknown_kind_of_url_is_named(url, tmp_path):
    with pytest.raises(UserError, match=r"run.mirror='(nonsense|s4)"):
        Mirror(url, tmp_path / "run")
