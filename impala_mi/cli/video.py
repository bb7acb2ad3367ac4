"""`impala-mi video`."""

import itertools
from collections.abc import Iterator
from urllib.parse import quote

import click

from impala_mi.cli.console import make_console
from impala_mi.errors import UserError


@click.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--level", "chosen", multiple=True, help="May be given several times.  [default: every level]")
@click.option("--episodes", type=click.IntRange(min=1), default=1, show_default=True, help="Of each level.")
@click.option("--checkpoint", default="last", show_default=True, help="last, best, or the name of one.")
@click.option(
    "--fps", type=click.IntRange(1, 60), default=15, show_default=True, help="Agent steps shown a second."
)
@click.option("--gif", is_flag=True, help="GIFs of half the size in place of MP4s.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--greedy", is_flag=True, help="Take the policy's mode (most likely action) instead of a sample.")
def command(
    run: str,
    overrides: tuple[str, ...],
    chosen: tuple[str, ...],
    episodes: int,
    checkpoint: str,
    fps: int,
    gif: bool,
    seed: int,
    greedy: bool,
) -> None:
    """Film episodes of RUN (a folder): what the agent sees, and the instruction, its policy, value and reward.

    With a t-SNE of the same checkpoint (impala-mi tsne) also where each step lies in it. Writes
    RUN/videos/CHECKPOINT-LEVEL-N.mp4. Dotted KEY=VALUE arguments set env.dmlab.*, for another machine's folders.
    """
    from impala_mi.analysis import video
    from impala_mi.analysis.film import Film, load_map, shoot
    from impala_mi.analysis.play import OnEpisode
    from impala_mi.cli.trained import load_trained, output, playing, use_cores

    use_cores()
    console = make_console()
    trained = load_trained(run, checkpoint, overrides)
    names = trained.suite.level_names
    for name in chosen:
        if name not in names:
            raise UserError(f"--level {name}: {run} plays {', '.join(names)}")
    folder = output(trained, "videos")
    chart = load_map(trained.folder.path / "tsne" / f"{trained.checkpoint}.npz")
    for name in dict.fromkeys(chosen or names):
        stem = f"{trained.checkpoint}-{quote(name, safe='')}{'-greedy' * greedy}"
        numbers = itertools.count(1)
        with playing(f"filming {name}", episodes, console) as bar:

            def on_film(
                film: Film, stem: str = stem, numbers: Iterator[int] = numbers, bar: OnEpisode = bar
            ) -> None:
                file = folder / f"{stem}-{next(numbers)}{'.gif' if gif else '.mp4'}"
                video.write(video.draw(film, trained.suite.actions, names, chart), file, fps)
                bar(film.episode)
                console.print(f"wrote {file} (return {film.episode.return_:.4g})", soft_wrap=True)

            shoot(trained.network, trained.suite, names.index(name), episodes, seed, chart, on_film, greedy)
    if chart is None:
        console.print(
            f"no place in a t-SNE is shown: impala-mi tsne {run} --checkpoint {trained.checkpoint} makes one"
        )
