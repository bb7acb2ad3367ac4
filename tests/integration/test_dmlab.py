"""Runs on the double of DeepMind Lab, which fails in every way that the real module does."""

import contextlib
import json
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from impala_mi.config import load
from impala_mi.envs import faults
from tests.commands import impala
from tests.integration.session import ROOT, Session, left_behind, wait_for
from tests.test_api import save_run
from tests.tiny import DOUBLES

pytestmark = pytest.mark.integration
SMALL = (
    "dmlab30", "learner.num_gpus=0", "agent.core_width=32", "agent.context_width=8", "learner.unroll_length=10",
    "train.log_every_s=0.25", "env.dmlab.level_cache=cache",
)  # fmt: skip


@pytest.fixture
def lab(session, tmp_path, monkeypatch, lab_double) -> Session:
    """A session whose variables `use` sets for processes and for commands in this process alike."""
    for folder in ("temporary", "images", "faults"):
        (tmp_path / folder).mkdir()
    for name in ("0001.png", "2400.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def use(**variables):
        session.env |= variables
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    session.use = use
    use(
        PYTHONPATH=os.pathsep.join((str(ROOT), str(DOUBLES))), TMPDIR=str(tmp_path / "temporary"),
        DMLAB_DOUBLE_FRAMES="200", DMLAB_DOUBLE_COMPILE_S="0",
    )  # fmt: skip
    return session


def command(lab: Session, *args: str) -> str:
    """Output of a command in this process."""
    done = impala(*args, cwd=lab.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def shared_memory() -> set[str]:
    others = ("ViZDoom", "plasma", "sem.", "psm_", "torch_")  # of tests that run at the same time
    return {name for name in os.listdir("/dev/shm") if not name.startswith(others)}


def in_folder(game: psutil.Process, folder: str) -> bool:
    return game.environ().get("TMPDIR", "").startswith(folder)


def remains(session: Session) -> list[str]:
    """Names of temporary files, and ids of the games' processes, which have sessions of their own."""
    games = []
    for p in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if "impala_mi.envs.process" in " ".join(p.info["cmdline"] or []) and in_folder(
                p, session.env["TMPDIR"]
            ):
                games.append(p.pid)
    kept = ("torchinductor", ".impala-mi-maps-")  # PyTorch's cache, and the locks of compiles
    files = [p.name for p in Path(session.env["TMPDIR"]).iterdir() if not p.name.startswith(kept)]
    return [*map(str, games), *files]


def test_thirty_levels_survive_faults_of_every_kind_and_none_goes_uncounted(lab):
    total = int(os.environ.get("DMLAB_FAULTS", "5"))
    lab.use(DMLAB_DOUBLE_FAULTS=f"{lab.folder}/faults:{total}:0.004")
    shared = shared_memory()
    out = lab.run(
        "train", *SMALL, "run.name=a", "env.dmlab.dataset_path=images", "env.dmlab.timeout_s=10",
        "actors.per_level=null", "actors.count=1", "actors.envs=30", "actors.balance=frames",
        "learner.batch_size=30", f"train.env_frames={3000 * total}",
        timeout=240 + 16 * total,
    )  # fmt: skip
    assert "done after" in out
    injected = [file.read_text().split() for file in (lab.folder / "faults").iterdir()]
    assert len(injected) == total
    assert {kind for kind, _, _ in injected} == {"raise", "hang", "abort", "segfault", "exit"}
    lines = (lab.folder / "runs" / "a" / "events.jsonl").read_text().splitlines()
    faults = [event for event in map(json.loads, lines) if event["event"] == "fault"]
    kinds = {"raise": "error", "hang": "hang"}
    expected = Counter((level, kinds.get(kind, "crash")) for kind, _, level in injected)
    reported = Counter((fault["level"], fault["kind"]) for fault in faults)
    assert expected - reported == Counter()
    # Thirty games that start at once on a busy machine may exceed the timeout, which counts as a hang.
    assert {kind for _, kind in reported - expected} <= {"hang"}
    assert all(isinstance(fault["seed"], int) and fault["message"] for fault in faults)
    last = lab.records("a")[-1]
    assert (last["actors/faults"], last["actors/restarts"]) == (len(faults), 0)
    shares = [value for key, value in last.items() if key.endswith("/frames_share")]
    assert shares == [pytest.approx(1 / 30)] * 30
    assert any(key.endswith("/reset_s_max") for record in lab.records("a") for key in record)
    assert remains(lab) == []
    assert shared_memory() <= shared


def test_levels_play_equal_frames_from_a_filled_cache_and_a_killed_run_takes_its_games_along(lab):
    levels = "explore_goal_locations_small,skymaze_irreversible_path_hard"
    out = command(lab, "cache", "dmlab30", "--levels", levels, "--episodes", "40", "env.dmlab.level_cache=cache")
    assert "40" in out
    process = lab.start(
        "train", *SMALL, "run.name=a", f"env.levels=[{levels}]", "actors.per_level=1", "actors.balance=frames",
        "learner.batch_size=2", "train.env_frames=1e9", "train.checkpoint_every_s=1",
    )  # fmt: skip
    wait_for(lambda: lab.records("a") and lab.records("a")[-1]["env_frames"] >= 8000)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not any(name.isdigit() for name in remains(lab)), 10)
    last = lab.records("a")[-1]
    for level in levels.split(","):
        assert last[f"level/{level}/frames_share"] == pytest.approx(0.5, abs=0.02)
        assert last[f"level/{level}/cache_hits"] > 10
        assert f"level/{level}/cache_misses" not in last
    # A resumed run continues the counts, and removes the files of the one that was killed.
    saved = lab.checkpoint("a").meta["env_frames"]
    command(lab, "resume", "runs/a", f"train.env_frames={saved + 4000}")
    for level in levels.split(","):
        assert lab.records("a")[-1][f"level/{level}/env_frames"] >= (saved + 4000) * 0.45
    assert remains(lab) == []


def save_untrained(lab: Session, *levels: str) -> None:
    """A run `a` of these levels with a checkpoint of fresh weights."""
    overrides = (f"env.levels=[{','.join(levels)}]", "actors.per_level=1", f"learner.batch_size={len(levels)}")
    save_run(lab.folder / "runs", load(SMALL[0], (*SMALL[1:], *overrides)), None)


def test_evaluation_plays_whole_episodes_of_the_held_out_levels(lab):
    levels = ["rooms_collect_good_objects_train", "rooms_watermaze", "language_execute_random_task"]
    save_untrained(lab, *levels)
    lab.use(DMLAB_DOUBLE_FAULTS=f"{lab.folder}/faults:3:0.01")
    out = command(lab, "eval", "runs/a", "--episodes", "5", "env.dmlab.human_scores=code", "env.dmlab.timeout_s=10")
    assert "held-out levels" in out
    assert "3 faults of levels; the episodes they cost were replaced" in out
    assert "human_scores=code" in out
    (file,) = (lab.folder / "runs" / "a" / "eval").glob("*.json")
    result = json.loads(file.read_text())
    rows = result["levels"]
    assert [row["level"] for row in rows] == ["rooms_collect_good_objects_test", *levels[1:]]
    assert [row["agent"]["episodes"] for row in rows] == [5, 5, 5]
    assert [row["agent"]["length"] for row in rows] == [50.0, 50.0, 50.0]  # to their ends
    assert sum(row["faults"] for row in rows) == 3
    assert result["capped_mean"] == pytest.approx(sum(row["capped"] for row in rows) / 3)
    assert result["capped_interval"][0] <= result["capped_mean"] <= result["capped_interval"][1]
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    command(lab, "eval", "runs/a", "--episodes", "2", "--training-levels")
    assert len(list(file.parent.glob("*-training.json"))) == 1
    assert remains(lab) == []


def test_a_level_that_fails_for_good_is_reported_and_an_interrupt_does_not_wait_for_a_map_that_is_compiled(lab):
    """One level fails whenever it starts, one compiles its map for minutes, and the third plays on."""
    lab.use(DMLAB_DOUBLE_BREAKS="rooms_watermaze:reset:abort", DMLAB_DOUBLE_COMPILE_S="300")
    process = lab.start(
        "train", *SMALL, "run.name=a", "actors.per_level=1", "learner.batch_size=2",
        "env.levels=[rooms_watermaze,natlab_fixed_large_map,lasertag_one_opponent_small]",
    )  # fmt: skip
    wait_for(lambda: any(name.isdigit() for name in remains(lab)))
    wait_for(lambda: "started" in lab.events("a") and lab.events("a").count("fault") >= 3)
    wait_for(lambda: lab.records("a")[-1].get("level/rooms_watermaze/faults", 0) >= 3)
    wait_for(lambda: lab.records("a")[-1].get("level/natlab_fixed_large_map/frames_share") == 1.0)
    assert lab.records("a")[-1]["levels/compiling"] == 1
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert time.monotonic() - start < 15
    assert not left_behind(process.pid)
    assert remains(lab) == []


def test_an_interrupt_of_an_evaluation_does_not_wait_for_a_level(lab):
    save_untrained(lab, "rooms_watermaze")
    for fault in ("step:hang", "reset:abort"):
        lab.use(DMLAB_DOUBLE_BREAKS=f"rooms_watermaze:{fault}")
        process = lab.start("eval", "runs/a", "--episodes", "2")
        wait_for(lambda: any(name.isdigit() for name in remains(lab)))
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert time.monotonic() - start < 15
        assert remains(lab) == []


def test_an_evaluation_leaves_out_a_level_that_does_not_work_and_keeps_the_rest(lab, monkeypatch):
    save_untrained(lab, "rooms_watermaze", "natlab_fixed_large_map")
    lab.use(DMLAB_DOUBLE_BREAKS="rooms_watermaze:reset:raise")
    monkeypatch.setattr(faults, "MAX_FAULTS_IN_A_ROW", 2)
    done = impala("eval", "runs/a", "--episodes", "3", cwd=lab.folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no mean: rooms_watermaze: a level failed 2 times in a row" in done.stderr
    (file,) = (lab.folder / "runs" / "a" / "eval").glob("*.json")
    result = json.loads(file.read_text())
    assert [row["level"] for row in result["levels"]] == ["natlab_fixed_large_map"]
    assert result["levels"][0]["agent"]["episodes"] == 3
    assert result["capped_mean"] is None
    assert list(result["broken"]) == ["rooms_watermaze"]
