"""Progress of training: a live table on a terminal, otherwise a line per record."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from impala_mi.cli.console import make_table

if TYPE_CHECKING:
    from impala_mi.config import Config
    from impala_mi.envs.base import Suite
    from impala_mi.training.recorder import Report

MAX_LEVELS_IN_A_LINE = 9
"""Largest number of levels whose returns fit into a line."""


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as 1:02:03, or a dash for infinity."""
    if math.isinf(seconds):
        return "-"
    minutes, s = divmod(int(seconds), 60)
    h, m = divmod(minutes, 60)
    return f"{h}:{m:02}:{s:02}"


def remaining(env_frames: float, max_time_s: float | None, record: Mapping[str, float]) -> float:
    """Seconds until training to these limits ends, at the current speed."""
    frames = (env_frames - record["env_frames"]) / record["fps"] if record.get("fps") else math.inf
    if max_time_s is None or "time_s" not in record:
        return max(0.0, frames)
    return max(0.0, min(frames, max_time_s - record["time_s"]))


def cell(record: Mapping[str, float], level: str, metric: str, form: str) -> str:
    """Metric of a level, or a dash if it is unknown."""
    value = record.get(f"level/{level}/{metric}")
    return "-" if value is None else format(value, form)


def line(config: "Config", record: Mapping[str, float]) -> str:
    """Summary of a record in one line."""
    score, faults = record.get("score/capped_mean"), record.get("actors/faults")
    skipped = record.get("learner/skipped_updates")
    seconds = remaining(config.train.env_frames, config.train.max_time_s, record)
    return (
        f"{duration(record['time_s'])}  frames {record['env_frames']:,}  {record['fps']:,.0f} frames/s  "
        f"ETA {duration(seconds)}  lag {record.get('lag_mean', 0):.1f}"
        + ("" if score is None else f"  score {score:.1f}")
        + (f"  faults {faults:.0f}" if faults else "")
        + (f"  skipped updates {skipped:.0f}" if skipped else "")
    )


def maps(suite: "Suite", record: Mapping[str, float]) -> str:
    """Note on the levels whose first maps are not ready, for the end of a line; empty once all are."""
    compiling, total = record.get("levels/compiling", 0), len(suite.compiles)
    return f"  maps ready on {total - compiling:.0f} of {total} levels" if compiling else ""


def table(suite: "Suite", record: Mapping[str, float]) -> Table:
    """Table of returns by level."""
    out = make_table(
        ("level", "episodes", "return", "length", "random", "score"), box=None, pad_edge=False, header_style="dim"
    )
    for level in suite.levels:
        out.add_row(
            level.name,
            cell(record, level.name, "episodes", ".0f"),
            cell(record, level.name, "return_mean", ".2f"),
            cell(record, level.name, "length_mean", ".0f"),
            "-" if level.random_score is None else f"{level.random_score:.2f}",
            cell(record, level.name, "score", ".1f"),
        )
    return out


@contextlib.contextmanager
def reporting(config: "Config", suite: "Suite", console: Console) -> "Iterator[Report]":
    """Function that shows each record."""
    if not console.is_terminal:

        def plain(record: Mapping[str, float]) -> None:
            keys = {level.name: f"level/{level.name}/return_mean" for level in suite.levels}
            known = {name: record[key] for name, key in keys.items() if key in record}
            if len(suite.levels) <= MAX_LEVELS_IN_A_LINE:
                returns = "  ".join(f"{name} {value:.2f}" for name, value in known.items())
            else:
                returns = f"episodes of {len(known)} of {len(keys)} levels"
            text = f"{line(config, record)}{maps(suite, record)}  {returns}"
            console.print(text, soft_wrap=True, highlight=False)

        yield plain
        return

    progress = Progress(BarColumn(bar_width=None), TextColumn("{task.percentage:.0f}%"), console=console)
    task = progress.add_task("train", total=config.train.env_frames)
    with Live("starting actors and learner ...", console=console, refresh_per_second=4) as live:

        def show(record: Mapping[str, float]) -> None:
            done = record["env_frames"] / config.train.env_frames
            if config.train.max_time_s is not None:
                done = max(done, record["time_s"] / config.train.max_time_s)
            progress.update(task, completed=min(done, 1.0) * config.train.env_frames)
            live.update(Group(progress, line(config, record) + maps(suite, record), table(suite, record)))

        yield show
