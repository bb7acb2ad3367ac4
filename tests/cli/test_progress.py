import io

import pytest
from rich.console import Console

from impala_mi.cli import run_training
from impala_mi.cli.progress import line, reporting
from impala_mi.config import load
from impala_mi.envs.suites import make_suite
from tests.tiny import tiny_config

RECORD = {"time_s": 61.0, "env_frames": 1000, "fps": 100.0, "lag_mean": 1.25}


def test_a_line_says_how_long_is_left_and_how_often_levels_failed():
    config = tiny_config("train.env_frames=7000")
    assert line(config, RECORD) == "0:01:01  frames 1,000  100 frames/s  ETA 0:01:00  lag 1.2"
    assert line(config, RECORD | {"actors/faults": 3}).endswith("faults 3")
    assert line(config, RECORD | {"learner/skipped_updates": 2}).endswith("skipped updates 2")
    assert "ETA -" in line(config, RECORD | {"fps": 0.0})  # every level waits
    limited = tiny_config("train.env_frames=7000", "train.max_time_s=70")
    assert "ETA 0:00:09" in line(limited, RECORD | {"fps": 0.0})


def test_many_levels_are_counted_and_few_are_named(suite):
    def printed(levels: int) -> str:
        out = io.StringIO()
        made = type(suite)(**{**suite.__dict__, "levels": suite.levels * (levels // len(suite.levels))})
        with reporting(tiny_config(), made, Console(file=out, width=200)) as report:
            report(RECORD | {f"level/{suite.levels[0].name}/return_mean": 0.5})
        return out.getvalue()

    assert f"{suite.levels[0].name} 0.50" in printed(5)
    assert "levels" in printed(30)
    assert "0.50" not in printed(30)


@pytest.mark.parametrize(
    ("cores", "overrides", "says"),
    [
        (2, (), "19 of 28 levels compile one for each environment first"),
        (2, (), "19 maps on this machine's 2 cores take 0:06:40 to 0:13:20, or seconds if they are cached"),
        (16, (), "19 maps on this machine's 16 cores take 0:01:20 to 0:02:40"),
        (4, ("actors.envs=2",), "38 maps on this machine's 4 cores take 0:06:40 to 0:13:20"),
        (1, ("actors.envs=2",), "0:50:40, or seconds if they are cached; raise actors.timeout_s=1800 above that"),
    ],
)
def test_the_time_until_all_maps_are_compiled_is_said_before(monkeypatch, cores, overrides, says):
    monkeypatch.setattr(run_training, "cores", lambda: cores)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load("dmlab30_single", overrides)
    said = run_training._startup(config, make_suite(config.env))
    assert says in said
    assert ("actors.timeout_s" in said) == (cores == 1)


def test_nothing_is_said_of_the_time_that_the_nodes_of_a_cluster_take(monkeypatch):
    monkeypatch.setattr(run_training, "cores", lambda: 1)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    config = load("dmlab30_single", ("actors.envs=2",))
    assert run_training._startup(config, make_suite(config.env)) == (
        "maps: 19 of 28 levels compile one for each environment first; "
        "each node compiles as many at once as it has cores"
    )


def test_levels_whose_maps_are_ready_are_counted_until_all_are():
    config = load("dmlab30_single", ())
    suite = make_suite(config.env)
    out = io.StringIO()
    with reporting(config, suite, Console(file=out, width=200)) as report:
        for compiling in (7, 0):
            report(RECORD | {"levels/compiling": compiling})
    first, second = out.getvalue().splitlines()
    assert "maps ready on 12 of 19 levels" in first
    assert "maps" not in second
