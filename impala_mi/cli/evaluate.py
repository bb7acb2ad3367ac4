"""Command `impala-mi eval`."""

import json
import math
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from impala_mi.cli.console import list_written, make_console, make_table
from impala_mi.cli.options import GREEDY, agent_options
from impala_mi.errors import TrainingError

if TYPE_CHECKING:
    from impala_mi.analysis.evaluation import Evaluation


@click.command(name="eval")
@agent_options(episodes=50)
@click.option("--training-levels", is_flag=True, help="Play the training levels, not their held-out variants.")
@click.option("--processes", type=click.IntRange(1, 4096), help="Games at a time.  [default: 16 to 64]")
@click.option(
    "--max-steps", type=click.IntRange(1, 10**9), default=200_000, show_default=True,
    help="Agent steps after which an episode is cut off and counted.",
)  # fmt: skip
@click.option(
    "--max-time", type=click.FloatRange(0.001, 10**7), metavar="SECONDS",
    help="Score the episodes that have ended by then.  [default: no limit]",
)  # fmt: skip
@click.option("--against-random", is_flag=True, help="Compare with as many episodes of a random player.")
@click.option("--no-task-ids", is_flag=True, help="Do not tell the agent which level it plays.")
@GREEDY
def command(
    run: str,
    overrides: tuple[str, ...],
    episodes: int,
    checkpoint: str,
    seed: int,
    training_levels: bool,
    processes: int | None,
    max_steps: int,
    max_time: float | None,
    against_random: bool,
    no_task_ids: bool,
    greedy: bool,
) -> None:
    """Score the agent of RUN (a folder) on complete episodes of its levels, or of their held-out variants.

    Prints a table and writes eval/CHECKPOINT.json and .png in the run's folder; with -limited in their names if
    a limit below the default changed the scores, which reports then leave out. KEY=VALUE arguments set
    env.dmlab.*, for the folders of another machine or other human scores.
    """
    from impala_mi.analysis.evaluation import draw_scores, evaluate, evaluation_suite
    from impala_mi.cli.trained import episode_bar, load_trained
    from impala_mi.host.files import write_atomically

    trained = load_trained(run, checkpoint, overrides)
    suite = evaluation_suite(trained.suite, training_levels)
    console = make_console()
    result = evaluate(
        trained, suite, episodes, seed, greedy=greedy, task_ids=not no_task_ids, against_random=against_random,
        processes=processes, progress=lambda player, total: episode_bar(player, total, console),
        on_progress=lambda ended, longest: console.print(
            f"playing: {ended} episodes have ended, the longest that runs has {longest:,} steps", soft_wrap=True
        ),
        max_steps=max_steps, max_time_s=math.inf if max_time is None else max_time,
    )  # fmt: skip
    short = [f"{row.level} {row.agent.episodes}" for row in result.levels if row.agent.episodes < episodes]
    if short:
        console.print(f"stopped after {max_time:g} s: of {episodes} episodes there are {', '.join(short)}")
    if result.cut_off:
        console.print(f"{result.cut_off} episodes cut off at {max_steps:,} steps")
    labels = [str(trained.folder.path), f"checkpoint {trained.checkpoint}", suite.variant, "greedy" * greedy]
    title = ", ".join(filter(None, labels))
    _show(console, result, title, suite.scores_note)
    suffix = "-training" * (suite.variant == "training levels") + "-greedy" * greedy + "-limited" * result.limited
    file = trained.folder.path / "eval" / f"{trained.checkpoint}{suffix}.json"
    file.parent.mkdir(exist_ok=True)
    settings = {
        "checkpoint": trained.checkpoint, "seed": seed, "task_ids": not no_task_ids, "greedy": greedy,
        "variant": suite.variant or None, "scores": suite.scores_note or None, "max_steps": max_steps,
        "max_time": max_time,
    }  # fmt: skip
    write_atomically(file, json.dumps(settings | result.as_dict(), indent=1) + "\n")
    list_written(console, [file])
    if any(row.score is not None for row in result.levels):
        picture = file.with_suffix(".png")
        draw_scores(result, title, picture)
        list_written(console, [picture])
    if result.broken:
        reasons = "; ".join(f"{level}: {reason}" for level, reason in result.broken.items())
        raise TrainingError(f"no mean: {reasons}")


def _show(console: Console, result: "Evaluation", title: str, note: str) -> None:
    console.print(_table(result, title))
    if lost := sum(row.faults for row in result.levels):
        console.print(f"{lost} faults of levels; the episodes they cost were replaced")
    if note:
        console.print(note)
    if result.capped_mean is not None:
        interval = result.capped_interval
        within = "" if interval is None else f", 95 % interval [{interval[0]:.1f}, {interval[1]:.1f}]"
        console.print(f"mean capped score {result.capped_mean:.1f}{within}")


def _table(result: "Evaluation", title: str) -> Table:
    headings = [
        "level", "episodes", "return", "std error", "95 % interval", "random", "reference", "score", "capped",
    ]  # fmt: skip
    if any(row.random is not None for row in result.levels):
        headings.append("better than random")
    table = make_table(headings, title=title, title_justify="left")
    table.columns[0].no_wrap = True
    for row in result.levels:
        a, r = row.agent, row.random
        against = f"{r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]" if r is not None else _number(row.random_score)
        cells = [
            row.level, str(a.episodes), f"{a.mean:.2f}", f"{a.stderr:.2f}", f"[{a.low:.2f}, {a.high:.2f}]", against,
            _number(row.reference_score), _number(row.score, ".1f"), _number(row.capped, ".1f"),
        ]  # fmt: skip
        table.add_row(*cells, *([] if r is None else ["clearly" if row.clearly_better else "no"]))
    return table


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)
