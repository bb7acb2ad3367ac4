"""Command `impala-mi watch`."""

import contextlib
import itertools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from impala_mi.cli.console import make_console, make_table
from impala_mi.cli.progress import cell, duration, remaining
from impala_mi.errors import UserError, printable

if TYPE_CHECKING:
    from impala_mi.runs.history import History

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 24
"""Width of a curve in characters."""
EVENTS = 5
"""Number of events to show."""
SILENT = 3
"""Intervals between records after which a run counts as silent."""


@click.command()
@click.argument("run")
@click.option(
    "--every", type=click.FloatRange(0.2, 86_400), default=2.0, show_default=True, help="Seconds between updates."
)
@click.option("--once", is_flag=True, help="Print the state once and exit.")
def command(run: str, every: float, once: bool) -> None:
    """Watch RUN: the folder of a run or a population, or the copy of run.mirror (s3://bucket/runs/name).

    Only reads, so any number of processes may watch. Exits when the run ends.
    """
    from impala_mi.pbt import journal
    from impala_mi.runs.folder import local_population
    from impala_mi.runs.history import read

    run = run.removeprefix("file://")
    population = local_population(run)

    def look() -> tuple[RenderableType, bool]:
        """Current view, and whether the run continues."""
        if population is not None:
            members = [read(str(folder)) for folder in sorted((population / "members").glob("*"))]
            return overview(population.name, members), journal.read(population)[-1:][0]["event"] != "ended"
        history = read(run)
        return view(history, time.time()), history.status in ("unfinished", "empty")

    console = make_console()
    current, unfinished = look()
    if once or not console.is_terminal:
        console.print(current)
        return
    with Live(current, console=console, auto_refresh=False) as live:
        while unfinished:
            time.sleep(every)
            with contextlib.suppress(UserError):  # a bucket that does not answer may answer later
                current, unfinished = look()
            live.update(current, refresh=True)


def overview(name: str, members: "Sequence[History]") -> Table:
    """Table of a population with a line per member."""
    headings = ("member", "", "env frames", "frames/s", "capped score", "")
    table = make_table(headings, ("",), title=name, title_justify="left", box=None, padding=(0, 2), pad_edge=False)
    for member in members:
        score = member.last.get("score/capped_mean")
        table.add_row(
            Text(printable(member.name)), _status(member), f"{member.last.get('env_frames', 0):,.0f}",
            f"{member.last.get('fps', 0.0):,.0f}", "-" if score is None else f"{score:.1f}",
            Text(sparkline(member.series("score/capped_mean")[1]), style="cyan"),
        )  # fmt: skip
    return table


def _status(run: "History") -> Text:
    return Text(run.status, {"done": "green", "failed": "red", "interrupted": "yellow"}.get(run.status, "cyan"))


def view(run: "History", now: float) -> RenderableType:
    """View of a run at a time in seconds since 1970."""
    last = run.last
    if not last:
        return Group(_heading(run, now), Text("no record yet", style="dim"), _events(run))
    return Group(_heading(run, now), _progress(run, now), _levels(run), _machine(run), _events(run))


def _heading(run: "History", now: float) -> Text:
    text = Text.assemble((printable(run.name), "bold"), "  ", _status(run))
    if run.status == "unfinished" and run.written_at is not None:
        style = "red" if _late(run, now) else "dim"
        text.append(f"  last record {duration(max(0.0, now - run.written_at))} ago", style=style)
    return text


def _late(run: "History", now: float) -> bool:
    """Whether a record is overdue: the run was killed, or hangs."""
    interval = run.settings.get("train.log_every_s")
    interval = interval if isinstance(interval, int | float) else 10.0
    return run.written_at is not None and now - run.written_at > SILENT * interval


def _progress(run: "History", now: float) -> Table:
    frames, total = run.last["env_frames"], run.settings.get("train.env_frames")
    table = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [f"{frames:,.0f} env frames"]
    if isinstance(total, int | float) and total > 0:
        cells += [ProgressBar(total, min(frames, total), width=30), f"{frames / total:.1%} of {total:,.0f}"]
        limit = run.settings.get("train.max_time_s")
        seconds = remaining(total, limit if isinstance(limit, int | float) else None, run.last)
        if run.status == "unfinished" and not _late(run, now) and seconds < math.inf:
            cells.append(f"{duration(seconds)} left")
    cells.append(f"{run.last.get('fps', 0.0):,.0f} frames/s")
    table.add_row(*cells)
    return table


def _levels(run: "History") -> Table:
    headings = ("level", "return", "", "score", "episodes", "faults")
    table = make_table(headings, left=("",), box=None, padding=(0, 2), pad_edge=False)
    for level in run.levels:
        curve = sparkline(run.series(f"level/{level}/return_mean")[1])
        faults = cell(run.last, level, "faults", ",.0f")
        table.add_row(
            Text(printable(level)), cell(run.last, level, "return_mean", ",.4g"), Text(curve, style="cyan"),
            cell(run.last, level, "score", ".1f"),
            cell(run.last, level, "episodes", ",.0f"), Text(faults, style="" if faults in ("0", "-") else "red"),
        )  # fmt: skip
    if "score/capped_mean" in run.last:
        curve = sparkline(run.series("score/capped_mean")[1])
        score = f"{run.last['score/capped_mean']:.1f}"
        table.add_row(Text("mean capped score", style="bold"), "", Text(curve, style="cyan"), score)
    return table


def _machine(run: "History") -> Text:
    parts = []
    for label, key, form in (
        ("actors", "actors/alive", ".0f"), ("restarts", "actors/restarts", ".0f"),
        ("levels compiling", "levels/compiling", ".0f"), ("lag", "lag_mean", ".1f"),
        ("updates", "updates", ",.0f"), ("entropy", "loss/entropy", ".2f"),
        ("learning rate", "learner/learning_rate", ".2g"), ("skipped updates", "learner/skipped_updates", ",.0f"),
    ):  # fmt: skip
        if key in run.last:
            parts.append(f"{label} {run.last[key]:{form}}")
    if run.skipped:
        parts.append(f"{run.skipped} damaged lines of the logs skipped")
    return Text("   ".join(parts), style="dim")


def _events(run: "History") -> Text:
    lines = [
        printable(
            f"{event.get('time', '')}  {event['event']}  "
            + ", ".join(f"{k}={v}" for k, v in event.items() if k not in ("time", "event"))
        )
        for event in run.newest[-EVENTS:]
    ]
    return Text("\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis")


def sparkline(values: Sequence[float]) -> str:
    """Curve of at most WIDTH characters, each the mean of its share of the values."""
    if not values:
        return ""
    n = min(WIDTH, len(values))
    edges = [i * len(values) // n for i in range(n + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BLOCKS[min(int((m - low) / span * len(BLOCKS)), len(BLOCKS) - 1)] for m in means)
