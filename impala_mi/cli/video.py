"""Command `impala-mi video`."""

import itertools
from collections.abc import Iterator
from urllib.parse import quote

import click

from impala_mi.cli.console import check_writable, make_console
from impala_mi.cli.options import GREEDY, agent_options
from impala_mi.errors import UserError


@click.command()
@agent_options(episodes=1)
@click.option("--level", "chosen", multiple=True, help="Level; may be given several times.  [default: all levels]")
@click.option(
    "--fps", type=click.IntRange(1, 60), default=15, show_default=True, help="Agent steps per second of video."
)
@click.option("--gif", is_flag=True, help="Write GIFs of half the size instead of MP4s.")
@GREEDY
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
    """Film episodes of RUN (a folder): the agent's view, instruction, policy, value and reward.

    With a t-SNE of the same checkpoint (impala-mi tsne) it also shows the place of each step in it. Writes
    RUN/videos/CHECKPOINT-LEVEL-N.mp4. KEY=VALUE arguments set env.dmlab.*, for the folders of another machine.
    """
    from impala_mi.analysis import video
    from impala_mi.analysis.film import Film, film_episodes, load_map
    from impala_mi.analysis.play import OnEpisode
    from impala_mi.cli.trained import episode_bar, load_trained

    console = make_console()
    trained = load_trained(run, checkpoint, overrides)
    names = trained.suite.level_names
    for name in chosen:
        if name not in names:
            raise UserError(f"--level {name}: {run} plays {', '.join(names)}")
    folder = check_writable(trained.folder.path / "videos")
    chart = load_map(trained.folder.path / "tsne" / f"{trained.checkpoint}.npz")
    for name in dict.fromkeys(chosen or names):
        stem = f"{trained.checkpoint}-{quote(name, safe='')}{'-greedy' * greedy}"
        numbers = itertools.count(1)
        with episode_bar(f"filming {name}", episodes, console) as bar:

            def on_film(
                film: Film, stem: str = stem, numbers: Iterator[int] = numbers, bar: OnEpisode = bar
            ) -> None:
                file = folder / f"{stem}-{next(numbers)}{'.gif' if gif else '.mp4'}"
                video.write_video(video.draw_film(film, trained.suite.actions, names, chart), file, fps)
                bar(film.episode)
                console.print(f"wrote {file} (return {film.episode.return_:.4g})", soft_wrap=True)

            film_episodes(trained.network, trained.suite, names.index(name), episodes, seed, chart, on_film, greedy)
    if chart is None:
        console.print(
            f"without a place in a t-SNE; to add it: impala-mi tsne {run} --checkpoint {trained.checkpoint}"
        )
