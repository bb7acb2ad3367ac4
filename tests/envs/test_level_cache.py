"""The level cache under everything that may happen to files and processes."""

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from impala_mi.envs.level_cache import LevelCache, check_folder
from impala_mi.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
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
    wanted = tmp_path / "wanted.pk3"
    wanted.unlink(missing_ok=True)
    found = cache.fetch(key, str(wanted))
    assert found == wanted.exists(), "the engine ends the process where a hit has no file"
    assert type(found) is bool
    return wanted.read_bytes() if found else None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.dictionaries(st.text(min_size=1), st.binary(), max_size=5))
def test_what_was_stored_comes_back_in_every_process(tmp_path, maps):
    """Whatever DeepMind Lab calls its maps: keys never become paths."""
    for key, data in maps.items():
        store(LevelCache(tmp_path / "cache"), key, data, tmp_path)
    for key, data in maps.items():
        assert fetched(LevelCache(tmp_path / "cache"), key, tmp_path) == data


def test_a_miss_is_a_miss(tmp_path):
    cache = LevelCache(tmp_path / "cache")
    assert fetched(cache, KEY, tmp_path) is None
    store(cache, KEY, b"map", tmp_path)
    assert fetched(cache, KEY, tmp_path) == b"map"
    assert cache.counts == {"cache_misses": 1, "cache_hits": 1}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_damaged_entry_is_a_miss_and_is_repaired(tmp_path, content, data):
    """Cut off anywhere, or with any byte changed."""
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
    # The folder is taken away under a running level, and comes back.
    store(cache, KEY, b"map", tmp_path)
    shutil.rmtree(tmp_path / "cache")
    assert fetched(cache, KEY, tmp_path) is None
    store(cache, KEY, b"map", tmp_path)
    assert fetched(cache, KEY, tmp_path) == b"map"


def test_a_map_that_cannot_be_copied_leaves_no_half_of_it(tmp_path):
    cache = LevelCache(tmp_path / "cache")
    store(cache, KEY, b"map", tmp_path)
    assert cache.fetch(KEY, str(tmp_path / "nowhere" / "wanted.pk3")) is False
    wanted = tmp_path / "wanted.pk3"
    wanted.symlink_to("/dev/full")  # every write fails, as on a full disk
    assert cache.fetch(KEY, str(wanted)) is False
    assert not wanted.is_symlink()


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


def test_what_killed_writers_left_is_removed_after_an_hour(tmp_path):
    aside = tmp_path / "cache" / "tmp"
    LevelCache(tmp_path / "cache")
    for name, age in (("old", 4000), ("new", 10)):
        (aside / name).write_bytes(b"half")
        os.utime(aside / name, (time.time() - age,) * 2)
    LevelCache(tmp_path / "cache")
    assert [p.name for p in aside.iterdir()] == ["new"]


def test_the_folder_is_checked_before_anything_starts(tmp_path, monkeypatch):
    check_folder(tmp_path / "a" / "b")
    assert [p for p in (tmp_path / "a" / "b").rglob("*") if p.is_file()] == []
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/here")):
        with pytest.raises(
            UserError, match=r"env.dmlab.level_cache='.*': cannot be written: .*; name another folder"
        ):
            check_folder(bad)
    with monkeypatch.context() as context:
        context.setattr("impala_mi.envs.level_cache.LevelCache.fetch", lambda *_: False)
        with pytest.raises(UserError, match="what is written there cannot be read again"):
            check_folder(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(UserError, match="1 MiB free, and 2048 are left alone"):
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


PLAYER = """
import hashlib, os, random, sys
from pathlib import Path
from impala_mi.envs.level_cache import LevelCache
folder, bound, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache, rng = LevelCache(folder / "cache", bound or None), random.Random(seed)
own = folder / str(os.getpid())
print("up", flush=True)
while True:
    key = f"map{rng.randrange(6)}"
    content = hashlib.sha256(key.encode()).digest() * (1 + 4000 * int(key[-1]))
    if cache.fetch(key, str(own)):
        assert own.read_bytes() == content, "a partial map"
        own.unlink()
    else:
        assert not own.exists(), "a miss that left a file"
        own.write_bytes(content)
        cache.write(key, str(own))
        own.unlink()
"""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8, deadline=None)
@given(st.sampled_from([0, 1_500_000]), st.integers(0, 1000))
def test_players_that_share_a_folder_and_are_killed_never_read_part_of_a_map(tmp_path_factory, bound, seed):
    """Four write and read the same six maps of up to 640 kB; each is killed at any moment and replaced."""
    folder, rng = tmp_path_factory.mktemp("shared"), random.Random(seed)
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PLAYER, str(folder), str(bound), str(rng.randrange(10**6))]
        player = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert player.stdout.readline() == "up\n"
        return player

    players = [start() for _ in range(4)]
    for _ in range(6):
        time.sleep(rng.uniform(0, 0.1))
        i = rng.randrange(len(players))
        os.kill(players[i].pid, signal.SIGKILL)
        _, errors = players[i].communicate()
        assert players[i].returncode == -signal.SIGKILL, errors
        players[i] = start()
    for player in players:
        assert player.poll() is None, player.stderr.read()
        player.kill()
        player.communicate()
    cache = LevelCache(folder / "cache")
    assert entries(folder / "cache"), "nothing was written at all"
    for entry in entries(folder / "cache"):
        digest, data = entry.read_bytes()[:32], entry.read_bytes()[32:]
        assert hashlib.sha256(data).digest() == digest
    assert cache.counts["cache_repairs"] == 0
