import io

from rich.console import Console

from impala_mi.cli.progress import line, reporting
from tests.tiny import tiny_config

RECORD = {"time_s": 61.0, "env_frames": 1000, "fps": 100.0, "lag_mean": 1.25}


def test_a_line_says_how_long_is_left_and_how_often_levels_failed():
    config = tiny_config("train.env_frames=7000")
    assert line(config, RECORD) == "0:01:01  frames 1,000  100 frames/s  ETA 0:01:00  lag 1.2"
    assert line(config, RECORD | {"actors/faults": 3}).endswith("faults 3")
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
