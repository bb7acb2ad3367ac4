"""Command `impala-mi pbt`."""

import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from impala_mi import config as configuration
from impala_mi.cli.console import make_console, make_table
from impala_mi.cli.options import start_options
from impala_mi.cli.progress import duration
from impala_mi.config_text import find
from impala_mi.errors import UserError
from impala_mi.paths import local_path

if TYPE_CHECKING:
    from impala_mi.pbt.population import MemberReport, OnProgress
    from impala_mi.pbt.settings import PopulationConfig
    from impala_mi.runs.folder import RunFolder


@click.command()
@start_options("continue the population if its folder exists")
def command(config: str, overrides: tuple[str, ...], resume_mode: str, print_config: bool) -> int:
    """Train a population with CONFIG: a run's configuration with a section pbt.

    Members copy each other and change their hyperparameters while they train (docs/pbt.md). For example:

    \b
        impala-mi pbt configs/cartpole_pbt.yaml pbt.members=6 run.name=first

    Results go to the folder runs/NAME, those of members to runs/NAME/members/KEY. Ctrl-C writes checkpoints and
    exits; `impala-mi resume` continues; `impala-mi report` shows the lineage.
    """
    from impala_mi.pbt.settings import load

    name, _ = find(config)
    loaded = load(config, overrides)
    if print_config:
        click.echo(configuration.to_yaml(loaded), nl=False)
        return 0
    from impala_mi.pbt.capacity import check_population
    from impala_mi.runs import folder as run_folder

    check_population(loaded)
    if resume_mode == "auto":
        if loaded.run.name is None:
            raise UserError("--resume auto needs run.name, so that a job that is resubmitted finds its population")
        existing = run_folder.RunFolder(local_path(loaded.run.root, "run.root") / loaded.run.name)
        if run_folder.is_population(existing.path):
            return resume(existing, loaded, overrides)
    folder = run_folder.create_named(loaded, name)
    (folder.path / run_folder.JOURNAL).touch()  # marks the folder as a population that can be resumed
    try:
        with folder.locked():
            return run_population(loaded, folder)
    except (UserError, KeyboardInterrupt):
        if not (folder.path / "members").exists():  # Ray had not started: free the name
            shutil.rmtree(folder.path)
        raise


FIXED = ("seed", "env", "agent", "pbt.members", "pbt.populations", "pbt.space")
"""Keys that a resumed population keeps."""


def resume(folder: "RunFolder", new: "PopulationConfig", overrides: Sequence[str]) -> int:
    """Continue a population with a new configuration; returns the exit code.

    Raises `UserError` if a fixed key differs from the population's.
    """
    from impala_mi.pbt.capacity import check_population
    from impala_mi.pbt.journal import read
    from impala_mi.pbt.settings import PopulationConfig

    read(folder.path)  # raises if it is damaged
    with folder.locked():
        old = folder.config_as(PopulationConfig)
        for key in FIXED:
            before, after = configuration.get(old, key), configuration.get(new, key)
            if before != after:
                plain = isinstance(before, int)  # a section would be too long
                values = f": it is {before!r}, not {after!r}" if plain else ""
                raise UserError(f"{key} cannot change when a population is resumed{values}")
        if new.learner.optimizer != old.learner.optimizer:
            raise UserError("learner.optimizer cannot change when a population is resumed: members have its state")
        check_population(new)
        folder.save_config(new)
        folder.event("resumed", overrides=list(overrides))
        return run_population(new, folder)


def run_population(config: "PopulationConfig", folder: "RunFolder") -> int:
    """Train with progress output, in a folder that the caller has locked; returns the exit code."""
    from impala_mi.pbt import population

    console, pbt = make_console(), config.pbt
    members = pbt.members * pbt.populations
    turns = "" if pbt.concurrent in (None, members) else f", {pbt.concurrent} at a time"
    console.print(f"population {folder.path}: {pbt.populations} x {pbt.members} members{turns}, rule {pbt.rule}")
    started = time.monotonic()
    with _progress(config, console) as on_progress:
        result = population.train(config, folder, on_progress)
    console.print(table(config, result.members))
    took = duration(time.monotonic() - started)
    frames = sum(member.status.env_frames for member in result.members)
    console.print(f"{result.status} after {took}: {frames:,} frames, {result.copies} copies")
    if result.status == "interrupted":
        console.print(f"continue with: impala-mi resume {shlex.quote(str(folder.path))}", soft_wrap=True)
        return 130
    console.print(f"lineage: impala-mi report {shlex.quote(str(folder.path))}", soft_wrap=True)
    return 0


@contextmanager
def _progress(config: "PopulationConfig", console: Console) -> Iterator["OnProgress"]:
    """Function that shows progress: a table on a terminal, otherwise a line per record."""
    if console.is_terminal:
        with Live("starting members ...", console=console, refresh_per_second=4) as live:
            yield lambda time_s, members, copies: live.update(table(config, members))
        return

    def plain(time_s: float, members: "Sequence[MemberReport]", copies: int) -> None:
        known = [m.fitness for m in members if m.fitness is not None]
        frames = sum(m.status.env_frames for m in members)
        fps = sum(m.status.fps for m in members if m.state == "runs")
        fitness = f"fitness best {max(known):.1f} mean {sum(known) / len(known):.1f}" if known else "no fitness yet"
        running = sum(m.state == "runs" for m in members)
        console.print(
            f"{duration(time_s)}  {running} of {len(members)} members run  frames {frames:,}  "
            f"{fps:,.0f} frames/s  {fitness}  copies {copies}",
            soft_wrap=True,
            highlight=False,
        )

    yield plain


def table(config: "PopulationConfig", members: "Sequence[MemberReport]") -> Table:
    """Table of the members."""
    keys = list(config.pbt.space)
    headings = ("member", "", "frames", "fitness", "generation", *(key.removeprefix("learner.") for key in keys))
    out = make_table(headings, left=("",), box=None, pad_edge=False, header_style="dim")
    for m in members:
        values = [m.status.parameters[key] for key in keys]
        cells = [value if isinstance(value, str) else f"{value:.3g}" for value in values]
        fitness = "-" if m.fitness is None else f"{m.fitness:.1f}"
        out.add_row(m.key, m.state, f"{m.status.env_frames:,}", fitness, str(m.status.generation), *cells)
    return out
