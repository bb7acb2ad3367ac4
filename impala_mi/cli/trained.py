"""What the commands share that play: a run's agent, its folders, a bar."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from impala_mi.analysis.play import OnEpisode
from impala_mi.cli.console import allow_only
from impala_mi.config import MACHINE_KEYS, Config, build
from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder, open_run


@dataclass(frozen=True)
class Trained:
    """An agent as a checkpoint left it."""

    folder: RunFolder
    config: Config
    suite: Suite
    agent: Agent
    checkpoint: str
    """Its name."""


def load_trained(run: str, which: str, overrides: Sequence[str] = ()) -> Trained:
    """A run's agent; raises `UserError`.

    Overrides are for what differs from machine to machine, and for the scores that normalise.
    """
    folder = open_run(run)
    config = folder.config
    allow_only(overrides, (*MACHINE_KEYS, "human_scores"))
    config = build(run, config.model_dump(), overrides)
    suite = make_suite(config.env)
    suite.check()
    checkpoint = checkpoints.load(folder.checkpoints, which)
    agent = Agent(config.agent, suite.spaces)
    checkpoints.check_fits(checkpoint, agent)
    agent.load_state_dict(checkpoint.agent)
    return Trained(folder, config, suite, agent.eval(), checkpoint.path.name)


def output(trained: Trained, name: str) -> Path:
    """A folder in the run's; made before anything is played. Raises `UserError` where it cannot be written to."""
    folder = trained.folder.path / name
    try:
        folder.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise UserError(f"{str(folder)!r}: cannot be written to: {e.strerror}") from None
    return folder


@contextlib.contextmanager
def playing(what: str, episodes: int, console: Console) -> Iterator[OnEpisode]:
    """A bar that counts episodes."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=episodes)
        yield lambda _: progress.advance(task)


def use_cores() -> None:
    """One thread for the network; the games have processes of their own."""
    torch.set_num_threads(1)
