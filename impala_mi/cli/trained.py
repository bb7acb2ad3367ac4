"""Parts shared by the commands that play: loading a run's agent, output folders, a progress bar."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from impala_mi.analysis.acting import TrainedAgent, read_agent
from impala_mi.analysis.play import OnEpisode
from impala_mi.cli.console import allow_only
from impala_mi.config import MACHINE_KEYS
from impala_mi.errors import UserError


def load_trained(run: str, which: str, overrides: Sequence[str] = ()) -> TrainedAgent:
    """Agent of a run whose levels this machine can play; raises `UserError`.

    Overrides may change what differs from machine to machine, and the scores that normalise.
    """
    allow_only(overrides, (*MACHINE_KEYS, "human_scores"))
    agent = read_agent(run, which, overrides)
    agent.suite.check()
    return agent


def output(agent: TrainedAgent, name: str) -> Path:
    """Make a folder inside the run's, before anything is played; raises `UserError` if it is not writable."""
    folder = agent.folder.path / name
    try:
        folder.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise UserError(f"{str(folder)!r}: cannot be written to: {e.strerror}") from None
    return folder


@contextlib.contextmanager
def playing(what: str, episodes: int, console: Console) -> Iterator[OnEpisode]:
    """Progress bar that counts episodes."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=episodes)
        yield lambda _: progress.advance(task)


def use_cores() -> None:
    """Limit the network to one thread, because games have processes of their own."""
    torch.set_num_threads(1)
