"""`impala-mi tsne`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.table import Table

from impala_mi.cli.console import make_console
from impala_mi.errors import UserError

if TYPE_CHECKING:
    from impala_mi.analysis.acting import TrainedAgent
    from impala_mi.analysis.clusters import Apartness


@click.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--of",
    "kind",
    type=click.Choice(["policy", "value", "context", "core"]),
    help="Generated weights of the policy or of the value, the context, or the core's state.  [default: the first "
    "of policy, value, core that the head has]",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    default=("last",),
    show_default=True,
    help="last, best, or the name of one; several are drawn side by side.",
)
@click.option("--beside", multiple=True, metavar="RUN", help="Another run of the same levels, beside it.")
@click.option("--episodes", type=click.IntRange(min=1), default=8, show_default=True, help="Played of each level.")
@click.option(
    "--points", type=click.IntRange(min=10), default=400, show_default=True, help="Steps kept of each level."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--greedy", is_flag=True, help="Take the policy's mode (most likely action) instead of a sample.")
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
    """Draw the paper's figure 4(a) for RUN (a folder): a t-SNE of the weights that its head generates.

    Plays the levels, keeps steps of each evenly over the octaves of an episode (0, 1, 2-3, 4-7, ...), and writes
    to RUN/tsne the picture, coloured by level, transparent by time (.png, .svg; .html shows what was seen), how far
    levels lie apart as time goes on (-levels.png, .json), and what was recorded (.npz). TensorBoard's projector
    gets it too. Dotted KEY=VALUE arguments set env.dmlab.*, for another machine's folders.
    """
    import numpy as np

    from impala_mi.analysis.maps import write_maps
    from impala_mi.analysis.projector import project
    from impala_mi.analysis.recording import record
    from impala_mi.cli.trained import load_trained, output, playing, use_cores

    use_cores()
    console = make_console()
    loaded = [load_trained(run, which, overrides) for which in checkpoints]
    loaded += [load_trained(other, "last", overrides) for other in beside]
    every = list({(one.folder.path.resolve(), one.checkpoint): one for one in loaded}.values())
    mine = [one for one in every if one.folder.path == loaded[0].folder.path]
    _check(every, kind)
    folder = output(mine[0], "tsne")
    titles: list[str] = []
    for one in every:
        title = f"{one.folder.path.resolve().name}, {one.checkpoint}"
        titles.append(title if title not in titles else f"{title} ({len(titles) + 1})")
    recordings = []
    for one, title in zip(every, titles, strict=True):
        with playing(f"playing {title}", episodes * len(one.suite.levels), console) as count:
            recordings.append(record(one.network, one.suite, episodes, points, seed, count, greedy))
    others = [one.folder.path.resolve().name for one in every[len(mine) :]]
    stem = "-".join([*(one.checkpoint for one in mine), *others, *([kind] if kind else []), *["greedy"] * greedy])
    with console.status("embedding"):
        panels, found, files = write_maps(titles, recordings, kind, seed, folder, stem)
        for one, panel in zip(mine, panels, strict=False):
            name = stem if len(every) == 1 else f"{stem}-of-{one.checkpoint}"
            panel.recording.save(folder / f"{name}.npz", kind=np.array(panel.kind), points=panel.points)
            project(panel.recording, panel.kind, one.folder.path / "tensorboard", one.checkpoint, seed)
    console.print(_table(found))
    for file in files:
        console.print(f"wrote {file}", soft_wrap=True)


def _check(sources: "Sequence[TrainedAgent]", kind: str | None) -> None:
    """Raise `UserError` where they cannot be drawn side by side."""
    levels = sources[0].suite.level_names
    for one in sources:
        if one.suite.level_names != levels:
            raise UserError(
                f"{one.folder.path} plays {', '.join(one.suite.level_names)}; beside {sources[0].folder.path} it "
                f"must play {', '.join(levels)}"
            )
        generated = one.config.agent.head in ("mi_task", "mi_context")
        has = {"policy": one.config.agent.conditioned != "value", "value": one.config.agent.conditioned != "policy"}
        if kind not in (None, "core") and not (generated and has.get(kind or "", True)):
            raise UserError(
                f"--of {kind}: {one.folder.path} has none with agent.head={one.config.agent.head} and "
                f"agent.conditioned={one.config.agent.conditioned}; --of core draws any run"
            )


def _table(found: "dict[str, list[Apartness]]") -> Table:
    """At the first step of an episode and at the last octave, which fewer levels may come to."""
    table = Table(title="neighbours of the same level, silhouette", title_justify="left")
    for heading in (
        "",
        "at step 0",
        "chance",
        "silhouette",
        "later",
        "chance",
        "silhouette",
        "from step",
        "levels",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for name, rows in found.items():
        if rows:
            first, last = rows[0], rows[-1]
            table.add_row(
                name, f"{first.purity:.0%}", f"{first.chance:.0%}", f"{first.silhouette:.2f}", f"{last.purity:.0%}",
                f"{last.chance:.0%}", f"{last.silhouette:.2f}", str(last.first), str(last.levels),
            )  # fmt: skip
    return table
