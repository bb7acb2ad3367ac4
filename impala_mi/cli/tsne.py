"""`impala-mi tsne`."""

import click

from impala_mi.cli.console import make_console


@click.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--episodes", type=click.IntRange(min=1), default=8, show_default=True, help="Played of each level.")
@click.option(
    "--points", type=click.IntRange(min=1), default=400, show_default=True, help="Steps kept of each level."
)
@click.option("--checkpoint", default="last", show_default=True, help="last, best, or the name of one.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def command(run: str, overrides: tuple[str, ...], episodes: int, points: int, checkpoint: str, seed: int) -> None:
    """Draw the paper's figure 4(a) for RUN (a folder): a t-SNE of the weights that its head generates.

    Plays the levels, records the generated weights at each step, and writes tsne/CHECKPOINT.png (coloured by level,
    transparent by time step) with the recorded data beside it in an .npz file. Dotted
    KEY=VALUE arguments set env.dmlab.*, for another machine's folders.
    """
    import numpy as np

    from impala_mi.analysis.generated import record
    from impala_mi.analysis.tsne import draw
    from impala_mi.cli.trained import load_trained, playing, use_cores

    use_cores()
    trained = load_trained(run, checkpoint, overrides)
    console = make_console()
    with playing("playing", episodes * len(trained.suite.levels), console) as count:
        data = record(trained.agent, trained.suite, episodes, points, seed, count)
    folder = trained.folder.path / "tsne"
    folder.mkdir(exist_ok=True)
    file = folder / f"{trained.checkpoint}.png"
    names = trained.suite.level_names
    np.savez_compressed(
        file.with_suffix(".npz"),
        weights=data.weights,
        level=data.level,
        time=data.time,
        names=np.array(names),
    )
    with console.status("embedding"):
        draw(data, names, seed, file)
    console.print(f"wrote {file} ({len(data.level)} steps)", soft_wrap=True)
