"""Command `impala-mi tsne`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.table import Table

from impala_mi.cli.console import check_writable, list_written, make_console, make_table
from impala_mi.cli.options import GREEDY, agent_options
from impala_mi.errors import UserError

if TYPE_CHECKING:
    from impala_mi.analysis.acting import TrainedAgent
    from impala_mi.analysis.clusters import LevelSeparation


@click.command()
@agent_options(episodes=8, several=True)
@click.option(
    "--of",
    "kind",
    type=click.Choice(["policy", "value", "context", "core"]),
    help="Generated weights of the policy or the value, the context, or the state of the core.  [default: first "
    "of policy, value, core that the head has]",
)
@click.option("--beside", multiple=True, metavar="RUN", help="Another run of the same levels, drawn beside it.")
@click.option(
    "--points", type=click.IntRange(10, 10**5), default=400, show_default=True, help="Steps to keep of each level."
)
@GREEDY
def command(
    run: str,
    overrides: tuple[str, ...],
    kind: str | None,
    checkpoints: tuple[str, ...],
    beside: tuple[str, ...],
    episodes: int,
    points: int,
    seed: int,
    greedy: bool,
) -> None:
    """Draw figure 4(a) of the paper for RUN (a folder): a t-SNE of the weights that its head generates.

    Plays the levels and keeps steps of each evenly over the octaves of an episode (0, 1, 2-3, 4-7, ...). Writes to
    RUN/tsne the picture, coloured by level and transparent by time (.png, .svg; .html shows the frames), the
    separation of the levels over time (-levels.png, .json), and the recording (.npz). TensorBoard's projector gets
    it too. KEY=VALUE arguments set env.dmlab.*, for the folders of another machine.
    """
    import numpy as np

    from impala_mi.analysis.maps import write_maps
    from impala_mi.analysis.projector import write_projector
    from impala_mi.analysis.recording import record
    from impala_mi.cli.trained import episode_bar, load_trained

    console = make_console()
    loaded = [load_trained(run, checkpoint, overrides) for checkpoint in checkpoints]
    loaded += [load_trained(name, "last", overrides) for name in beside]
    agents = list({(agent.folder.path.resolve(), agent.checkpoint): agent for agent in loaded}.values())
    own = [agent for agent in agents if agent.folder.path == loaded[0].folder.path]
    _check(agents, kind)
    folder = check_writable(own[0].folder.path / "tsne")
    titles: list[str] = []
    for agent in agents:
        title = f"{agent.folder.path.resolve().name}, {agent.checkpoint}"
        titles.append(title if title not in titles else f"{title} ({len(titles) + 1})")
    recordings = []
    for agent, title in zip(agents, titles, strict=True):
        with episode_bar(f"playing {title}", episodes * len(agent.suite.levels), console) as bar:
            recordings.append(record(agent.network, agent.suite, episodes, points, seed, bar, greedy))
    beside_names = [agent.folder.path.resolve().name for agent in agents[len(own) :]]
    suffixes = [kind] * (kind is not None) + ["greedy"] * greedy
    stem = "-".join([*(agent.checkpoint for agent in own), *beside_names, *map(str, suffixes)])
    with console.status("embedding"):
        panels, separations, files = write_maps(titles, recordings, kind, seed, folder, stem)
        for agent, panel in zip(own, panels, strict=False):
            name = stem if len(agents) == 1 else f"{stem}-of-{agent.checkpoint}"
            panel.recording.save(folder / f"{name}.npz", kind=np.array(panel.kind), points=panel.points)
            write_projector(panel.recording, panel.kind, agent.folder.path / "tensorboard", agent.checkpoint, seed)
    console.print(_table(separations))
    list_written(console, files)


def _check(agents: "Sequence[TrainedAgent]", kind: str | None) -> None:
    """Raise `UserError` if agents cannot be drawn side by side."""
    levels = agents[0].suite.level_names
    for agent in agents:
        if agent.suite.level_names != levels:
            raise UserError(
                f"{agent.folder.path} plays {', '.join(agent.suite.level_names)}; beside {agents[0].folder.path} "
                f"it must play {', '.join(levels)}"
            )
        settings = agent.config.agent
        generated = agent.network.head.spec.generates_weights
        has = {"policy": settings.conditioned != "value", "value": settings.conditioned != "policy"}
        if kind not in (None, "core") and not (generated and has.get(kind or "", True)):
            raise UserError(
                f"--of {kind}: {agent.folder.path} has none with agent.head={settings.head} and "
                f"agent.conditioned={settings.conditioned}; --of core draws any run"
            )


def _table(separations: "dict[str, list[LevelSeparation]]") -> Table:
    """Separation at the first step of an episode and at the last octave, which fewer levels may reach."""
    headings = ("", "at step 0", "chance", "silhouette", "later", "chance", "silhouette", "from step", "levels")
    table = make_table(headings, title="neighbours of the same level, silhouette", title_justify="left")
    for name, rows in separations.items():
        if rows:
            first, last = rows[0], rows[-1]
            table.add_row(
                name, f"{first.purity:.0%}", f"{first.chance:.0%}", f"{first.silhouette:.2f}", f"{last.purity:.0%}",
                f"{last.chance:.0%}", f"{last.silhouette:.2f}", str(last.first), str(last.levels),
            )  # fmt: skip
    return table
