"""The level cache: damaged files, full disks, killed writers."""

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import stat
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from impala_mi.envs.level_cache import LevelCache, check_folder
from impala_mi.errors import UserError
from tests.texts import texts

KEY = "explore_maze_noaas_0123456789abcdef0123456789abcdef"
as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.map"))


def store(cache: LevelCache, key: str, data: bytes, tmp_path: Path) -> None:
    made = tmp_path / "made.pk3"
    made.write_bytes(data)
    cache.write(key, str(made))
    made.unlink()  # as the engine does at once


def fetched(cache: LevelCache, key: str, tmp_path: Path) -> bytes | None:
    copy = tmp_path / "copy.pk3"
    copy.unlink(missing_ok=True)
    hit = cache.load(key, str(copy))
    assert hit == copy.exists(), "the engine ends the process if a hit has no file"
    assert type(hit) is bool
    return copy.read_bytes() if hit else None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.dictionaries(texts(min_size=1), st.binary(), max_size=5))
def test_what_was_stored_comes_back_in_every_process(tmp_path, maps):
    """Keys never become paths, whatever they contain."""
    for key, data in maps.items():
        store(LevelCache(tmp_path / "cache"), key, data, tmp_path)
    for key, data in maps.items():
        assert fetched(LevelCache(tmp_path / "cache"), key, tmp_path) == data


def test_a_miss_is_a_miss(tmp_path):
    cache = LevelCache(tmp_path / "cache")
    assert fetched(cache, KEY, tmp_path) is None
    store(cache, KEY, b"map", tmp_path)
    assert fetched(cache, KEY, tmp_path) == b"map"
    assert not cache.counts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_damaged_entry_is_a_miss_and_is_repaired(tmp_path, content, data):
    """Truncated anywhere, or with any byte changed."""
    folder = tmp_path / "cache"
    cache = LevelCache(folder)
    store(cache, KEY, content, tmp_path)
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    entry.write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert fetched(cache, KEY, tmp_path) is None
    assert entries(folder) == []
    assert cache.counts["cache_repairs"] == 1
    store(cache, KEY, content, tmp_path)
    assert fetched(cache, KEY, tmp_path) == content


def test_a_cache_that_cannot_store_costs_nothing_but_time(tmp_path, monkeypatch):
    cache = LevelCache(tmp_path / "cache")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("os.replace", full)
        store(cache, KEY, b"map", tmp_path)
    assert cache.counts["cache_failures"] == 1
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []
    cache.write(KEY, str(tmp_path / "gone.pk3"))
    assert cache.counts["cache_failures"] == 2
    # The folder is removed under a running level and created again.
    store(cache, KEY, b"map", tmp_path)
    shutil.rmtree(tmp_path / "cache")
    assert fetched(cache, KEY, tmp_path) is None
    store(cache, KEY, b"map", tmp_path)
    assert fetched(cache, KEY, tmp_path) == b"map"


def test_a_map_that_cannot_be_copied_leaves_no_half_of_it(tmp_path):
    cache = LevelCache(tmp_path / "cache")
    store(cache, KEY, b"map", tmp_path)
    assert cache.load(KEY, str(tmp_path / "nowhere" / "copy.pk3")) is False
    copy = tmp_path / "copy.pk3"
    copy.symlink_to("/dev/full")  # every write fails, as on a full disk
    assert cache.load(KEY, str(copy)) is False
    assert not copy.is_symlink()


def test_folders_that_vanish_while_a_map_is_stored_are_made_anew(tmp_path, monkeypatch):
    """A check of the same folder, by a run that starts, removes those that are empty."""
    cache, steps = LevelCache(tmp_path / "cache"), []
    for name in ("tempfile.mkstemp", "os.replace"):
        module, _, function = name.partition(".")
        real = getattr(sys.modules[module], function)

        def vanish(*args, name=name, real=real, **kwargs):
            if name not in steps:
                steps.append(name)
                shutil.rmtree(tmp_path / "cache" / "tmp")
            return real(*args, **kwargs)

        monkeypatch.setattr(name, vanish)
    store(cache, KEY, b"map", tmp_path)
    assert len(steps) == 2
    assert fetched(cache, KEY, tmp_path) == b"map"
    assert not cache.counts


@as_root
def test_a_folder_that_is_not_ours_is_read(tmp_path):
    store(LevelCache(tmp_path / "cache"), KEY, b"map", tmp_path)
    folders = [tmp_path / "cache", *(p for p in (tmp_path / "cache").rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    cache = LevelCache(tmp_path / "cache")
    assert fetched(cache, KEY, tmp_path) == b"map"
    store(cache, "other", b"map", tmp_path)
    assert cache.counts["cache_failures"] == 1
    for folder in folders:
        folder.chmod(0o755)


def test_the_longest_unused_maps_go_when_it_grows_too_large(tmp_path):
    folder = tmp_path / "cache"
    cache = LevelCache(folder, max_bytes=10_000)
    for i in range(5):
        store(cache, f"map{i}", bytes(1500), tmp_path)
        (newest,) = set(entries(folder)) - {e for e in entries(folder) if e.stat().st_mtime < time.time() - 5000}
        os.utime(newest, (0, time.time() - 100_000 + 1000 * i))
    assert fetched(cache, "map0", tmp_path) is not None  # used again, so it stays
    for i in range(5, 9):
        store(cache, f"map{i}", bytes(1500), tmp_path)
        cache._evicting.join()
    assert sum(e.stat().st_size for e in entries(folder)) <= 10_000
    assert fetched(cache, "map0", tmp_path) is not None
    assert fetched(cache, "map8", tmp_path) is not None
    assert fetched(cache, "map1", tmp_path) is None


def test_unfinished_entries_are_removed_after_a_day(tmp_path):
    folder = tmp_path / "cache" / "tmp"
    LevelCache(tmp_path / "cache")
    for name, age in (("old", 90_000), ("new", 3700)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    LevelCache(tmp_path / "cache")
    assert [p.name for p in folder.iterdir()] == ["new"]


def test_the_folder_is_checked_before_anything_starts(tmp_path, monkeypatch):
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists(), "an empty folder was left behind"
    store(LevelCache(tmp_path / "cache"), KEY, b"map", tmp_path)
    (tmp_path / "cache" / "tmp").rmdir()
    before = sorted(tmp_path.rglob("*"))
    check_folder(tmp_path / "cache")
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/here")):
        with pytest.raises(
            UserError, match=r"env.dmlab.level_cache='.*': cannot be written: .*; name another folder"
        ):
            check_folder(bad)
    with monkeypatch.context() as context:
        context.setattr("impala_mi.envs.level_cache.LevelCache.load", lambda *_: False)
        with pytest.raises(UserError, match="a file written there cannot be read back"):
            check_folder(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(UserError, match="1 MiB free, and 2048 MiB are reserved"):
        check_folder(tmp_path)


def test_maps_leave_room_on_the_disk_for_checkpoints(tmp_path, monkeypatch):
    cache = LevelCache(tmp_path / "cache")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=2**30))
    store(cache, KEY, b"map", tmp_path)
    assert cache.counts == {"cache_failures": 1}
    assert entries(tmp_path / "cache") == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=0, total=0))  # a bucket does not tell
    store(cache, KEY, b"map", tmp_path)
    assert fetched(cache, KEY, tmp_path) == b"map"


def play(folder: Path, bound: int, seed: int, started: Connection) -> None:
    """Fetch and store random maps until killed."""
    cache, rng = LevelCache(folder / "cache", bound or None), random.Random(seed)
    copy = folder / str(os.getpid())
    started.send(None)
    while True:
        key = f"map{rng.randrange(6)}"
        content = hashlib.sha256(key.encode()).digest() * (1 + 4000 * int(key[-1]))
        if cache.load(key, str(copy)):
            assert copy.read_bytes() == content, "a partial map"
            copy.unlink()
        else:
            assert not copy.exists(), "a miss that left a file"
            copy.write_bytes(content)
            cache.write(key, str(copy))
            copy.unlink()


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8, deadline=None)
@given(st.sampled_from([0, 1_500_000]), st.integers(0, 1000))
def test_players_that_share_a_folder_and_are_killed_never_read_part_of_a_map(tmp_path_factory, bound, seed):
    """Four write and read the same six maps of up to 640 kB; each is killed at any moment and replaced."""
    folder, rng = tmp_path_factory.mktemp("shared"), random.Random(seed)
    fork = multiprocessing.get_context("forkserver")  # starts a player in milliseconds
    fork.set_forkserver_preload([__name__])

    def start() -> multiprocessing.Process:
        receiver, sender = fork.Pipe(duplex=False)
        player = fork.Process(target=play, args=(folder, bound, rng.randrange(10**6), sender), daemon=True)
        player.start()
        sender.close()
        receiver.recv()
        return player

    def kill(player: multiprocessing.Process) -> None:
        player.kill()
        player.join()
        assert player.exitcode == -signal.SIGKILL, "it failed before it was killed"

    players = [start() for _ in range(4)]
    for _ in range(6):
        time.sleep(rng.uniform(0, 0.1))
        i = rng.randrange(len(players))
        kill(players[i])
        players[i] = start()
    for player in players:
        kill(player)
    cache = LevelCache(folder / "cache")
    assert entries(folder / "cache"), "nothing was written at all"
    for entry in entries(folder / "cache"):
        digest, data = entry.read_bytes()[:32], entry.read_bytes()[32:]
        assert hashlib.sha256(data).digest() == digest
    assert cache.counts["cache_repairs"] == 0
