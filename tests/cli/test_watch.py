"""What is seen of a run while it trains."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from impala_mi.cli.watch import BLOCKS, WIDTH, overview, sparkline, view
from impala_mi.runs.history import read


def shown(what):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text("train: {env_frames: 100000, log_every_s: 10.0, max_time_s: null}\n")
    records = [
        {"env_frames": 1000 * i, "time_s": 10.0 * i, "fps": 100.0, "actors/alive": 2, "level/a/episodes": 7,
         "level/a/return_mean": float(i), "level/a/faults": 3, "score/capped_mean": 0.5 * i}
        for i in range(1, 51)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "events.jsonl").write_text(
        '{"time": "t1", "event": "started"}\n{"time": "t2", "event": "fault", "level": "a"}\n'
    )
    return tmp_path


@given(st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_a_curve_fits_and_keeps_its_order(values):
    curve = sparkline(values)
    assert len(curve) == min(len(values), WIDTH)
    assert set(curve) <= set(BLOCKS)
    if 0 < len(values) <= WIDTH and max(values) > min(values):
        assert curve[values.index(max(values))] == BLOCKS[-1]
        assert curve[values.index(min(values))] == BLOCKS[0]


def test_a_run_that_trains(folder):
    run = read(str(folder))
    text = shown(view(run, time.time() + 5))
    assert "unfinished" in text
    assert "last record 0:00:0" in text
    assert "50,000 env frames" in text
    assert "50.0% of 100,000" in text
    assert "0:08:20 left" in text  # 50,000 frames at 100 a second
    assert "mean capped score" in text
    assert "t2  fault  level=a" in text


def test_levels_that_compile_are_counted(folder):
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"env_frames": 51_000, "time_s": 510.0, "levels/compiling": 7}) + "\n")
    assert "levels compiling 7" in shown(view(read(str(folder)), time.time()))


def test_a_record_of_a_later_clock_is_not_negative_seconds_old(folder):
    assert "last record 0:00:00 ago" in shown(view(read(str(folder)), time.time() - 3600))


def test_what_is_left_knows_the_limit_of_time(folder):
    (folder / "config.yaml").write_text("train: {env_frames: 1.0e+15, max_time_s: 530.0}\n")
    assert "0:00:30 left" in shown(view(read(str(folder)), time.time()))


def test_a_run_that_ended_has_nothing_left(folder):
    with open(folder / "events.jsonl", "a") as f:
        f.write('{"time": "t3", "event": "failed", "error": "no space"}\n')
    text = shown(view(read(str(folder)), time.time()))
    assert "failed" in text
    assert "error=no space" in text
    assert "left" not in text
    assert "ago" not in text


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "config.yaml").touch()
    text = shown(view(read(str(tmp_path)), time.time()))
    assert "no record yet" in text


def test_a_population(folder, tmp_path):
    text = shown(overview("p", [read(str(folder)), read(str(folder))]))
    assert text.count("50,000") == 2
    assert text.count("25.0") == 2
