"""Turns at compiling maps: bounded by cores, one compile a map, and nobody waits for the dead."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from impala_mi.envs import map_compiles
from impala_mi.envs.level_cache import LevelCache
from impala_mi.envs.map_compiles import MapCompiles, locks_folder

HOLD = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(600)"


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr(map_compiles, "cores", lambda: 2)
    monkeypatch.setattr(map_compiles, "_POLL_S", 0.002)
    monkeypatch.setattr(map_compiles, "_MAX_POLL_S", 0.01)


class Engine:
    """Compiles maps as DeepMind Lab does, and counts them."""

    def __init__(self, tmp_path: Path, cached: bool = True) -> None:
        self.folder, self.cached = tmp_path, cached
        self.compiled, self.running, self.most = Counter[str](), 0, 0
        self._lock = threading.Lock()

    def compiles(self, number: int) -> MapCompiles:
        own = self.folder / f"game-{number}"
        own.mkdir(exist_ok=True)
        cache = LevelCache(self.folder / "cache") if self.cached else None
        return MapCompiles(cache, self.folder / "locks", own)

    def start(self, number: int, key: str, takes_s: float = 0.01) -> MapCompiles:
        compiles, path = self.compiles(number), self.folder / f"game-{number}" / "map.pk3"
        if not compiles.fetch(key, str(path)):
            with self._lock:
                self.compiled[key] += 1
                self.running += 1
                self.most = max(self.most, self.running)
            time.sleep(takes_s)
            path.write_bytes(key.encode())
            with self._lock:
                self.running -= 1
            compiles.write(key, str(path))
        assert path.read_bytes() == key.encode()
        return compiles

    def start_all(self, keys: list[str], takes_s: float = 0.01) -> None:
        threads = [threading.Thread(target=self.start, args=(*pair, takes_s)) for pair in enumerate(keys)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.mark.parametrize("cached", [True, False])
def test_no_more_maps_are_compiled_at_once_than_there_are_cores(tmp_path, cached):
    engine = Engine(tmp_path, cached)
    engine.start_all([f"map {i}" for i in range(8)])
    assert len(engine.compiled) == 8
    assert engine.most == 2


def test_a_map_is_compiled_once_and_who_waited_for_it_has_a_hit(tmp_path):
    engine = Engine(tmp_path)
    engine.start_all(["one", "other"] * 4)
    assert engine.compiled == {"one": 1, "other": 1}
    assert engine.start(0, "one").take_counts() == {"cache_hits": 1}
    compiles, path = engine.compiles(1), tmp_path / "copy"
    assert compiles.fetch("new", str(path)) is False
    late = engine.compiles(2)
    waiter = threading.Thread(target=late.fetch, args=("new", str(path)))
    waiter.start()
    while not (tmp_path / "game-2" / "waits").exists():  # it tells its parent that it waits
        time.sleep(0.001)
    path.write_bytes(b"new")
    compiles.write("new", str(path))
    waiter.join(timeout=30)
    assert (compiles.take_counts(), late.take_counts()) == ({"cache_misses": 1}, {"cache_hits": 1})
    assert compiles.take_counts() == {}


def test_a_compile_that_failed_gives_its_turn_and_its_map_back(tmp_path):
    engine = Engine(tmp_path)
    for number in range(5):
        compiles = engine.compiles(number)
        assert compiles.fetch("map", str(tmp_path / "copy")) is False
        if number % 2:
            compiles.release()
        else:
            assert compiles.fetch("another", str(tmp_path / "copy")) is False  # the engine goes on without `write`
            compiles.release()
    engine.start(0, "map")


def test_a_compiler_that_is_killed_lets_the_next_one_in(tmp_path, monkeypatch):
    monkeypatch.setattr(map_compiles, "cores", lambda: 1)
    engine = Engine(tmp_path)
    engine.start(0, "first")
    dead = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLD, str(tmp_path / "locks" / "turn-0")], stdout=subprocess.PIPE
    )
    dead.stdout.readline()
    waiter = threading.Thread(target=engine.start, args=(1, "second"))
    waiter.start()
    waiter.join(timeout=0.1)
    assert waiter.is_alive()
    dead.kill()
    dead.communicate()
    waiter.join(timeout=30)
    assert engine.compiled == {"first": 1, "second": 1}


def test_nobody_waits_for_ever_for_a_run_that_was_suspended(tmp_path, monkeypatch):
    monkeypatch.setattr(map_compiles, "MAX_WAIT_S", 0.05)
    engine = Engine(tmp_path)
    holders = [engine.compiles(i) for i in range(2)]
    for number, holder in enumerate(holders):
        assert holder.fetch(f"map {number}", str(tmp_path / "copy")) is False
    engine.start(2, "map 1")
    assert engine.compiled == {"map 1": 1}


def test_a_queue_that_takes_longer_than_the_wait_for_a_suspended_run_is_kept(tmp_path, monkeypatch):
    """Neither the turns nor the maps are given up: those who wait in the queue show signs of life."""
    monkeypatch.setattr(map_compiles, "MAX_WAIT_S", 0.4)
    engine, began = Engine(tmp_path), time.monotonic()
    engine.start_all([f"map {i}" for i in range(24)] * 2, takes_s=0.05)
    assert time.monotonic() - began > 0.4
    assert engine.most == 2
    assert engine.compiled == {f"map {i}": 1 for i in range(24)}


def test_one_game_at_a_time_takes_the_place_of_a_run_that_was_suspended(tmp_path, monkeypatch):
    monkeypatch.setattr(map_compiles, "MAX_WAIT_S", 0.1)
    engine = Engine(tmp_path)
    suspended = engine.compiles(99)
    assert suspended.fetch("map 0", str(tmp_path / "copy")) is False
    time.sleep(0.15)
    engine.start_all([f"map {i}" for i in range(12)])
    assert engine.most == 2
    assert len(engine.compiled) == 12


@pytest.mark.parametrize("mark", [b"", b"\0", b"nan", b"-1", b"1e30", b"0" * 24])
def test_the_mark_of_the_last_holder_or_no_mark_does_not_count_at_once(tmp_path, monkeypatch, mark):
    now = [1e6]
    monkeypatch.setattr(map_compiles.time, "monotonic", lambda: now[0])
    queue = map_compiles._Queue(tmp_path)
    assert not queue._suspended("turn-0", b"old")
    assert not queue._suspended("turn-0", mark)  # seen once
    now[0] += map_compiles.MAX_WAIT_S
    assert queue._suspended("turn-0", mark) == (mark == b"0" * 24)
    now[0] += 1
    assert queue._suspended("turn-0", mark)
    assert not queue._suspended("turn-0", b"another")


def test_those_who_wait_ask_ever_less_often_and_not_all_for_the_same_turn_first(tmp_path, monkeypatch):
    monkeypatch.setattr(map_compiles, "cores", lambda: 8)
    monkeypatch.setattr(map_compiles, "_POLL_S", 0.2)
    monkeypatch.setattr(map_compiles, "_MAX_POLL_S", 1.0)
    first, pauses = set(), []

    def take(self, names):
        first.add(names[0])
        return None if len(pauses) % 10 else os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)

    monkeypatch.setattr(map_compiles._Queue, "take", take)
    monkeypatch.setattr(map_compiles.time, "sleep", pauses.append)
    monkeypatch.setattr(map_compiles, "beat", lambda _: None)
    compiles = Engine(tmp_path, cached=False).compiles(0)
    for _ in range(20):
        pauses.append(0.0)
        compiles.fetch("map", str(tmp_path / "copy"))
    compiles.release()
    assert len(first) > 2
    assert all(0.1 <= pause <= 0.2 for pause in pauses[1::10])
    assert all(0.5 <= pause <= 1.0 for pause in pauses[9::10])
    assert len({round(pause, 6) for pause in pauses[9::10]}) > 10


@pytest.mark.parametrize("wrong", ["open to others", "a file", "a link"])
def test_a_folder_that_others_may_enter_is_not_used_and_maps_are_compiled_all_the_same(tmp_path, wrong):
    locks = tmp_path / "locks"
    if wrong == "a file":
        locks.write_text("")
    elif wrong == "a link":
        (tmp_path / "own").mkdir(mode=0o700)
        locks.symlink_to(tmp_path / "own")
    else:
        locks.mkdir()
        locks.chmod(0o777)
    engine = Engine(tmp_path)
    engine.start_all(["a", "b", "c"])
    assert len(engine.compiled) == 3
    assert not locks.is_dir() or not list(locks.iterdir())


def test_the_locks_are_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = locks_folder()
    assert folder.parent == tmp_path
    (tmp_path / "game").mkdir()
    compiles = MapCompiles(None, folder, tmp_path / "game")
    assert compiles.fetch("map", str(tmp_path / "copy")) is False
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600]
    compiles.release()
