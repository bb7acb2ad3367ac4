"""Parts of the commands that play episodes: loading a run's agent, and a progress bar."""

import contextlib
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from impala_mi.analysis.acting import TrainedAgent, read_agent
from impala_mi.analysis.play import OnEpisode
from impala_mi.nn.precision import compute_with


def load_trained(run: str, checkpoint: str, overrides: Sequence[str] = ()) -> TrainedAgent:
    """Load the agent of a run whose levels this machine can play; raises `UserError`.

    Limits PyTorch to one thread, because games have processes of their own. For overrides see `read_agent`.
    """
    compute_with(1)
    agent = read_agent(run, checkpoint, overrides)
    agent.suite.check()
    return agent


@contextlib.contextmanager
def episode_bar(label: str, episodes: int, console: Console) -> Iterator[OnEpisode]:
    """Progress bar that counts episodes."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=episodes)
        yield lambda _: progress.advance(task)
