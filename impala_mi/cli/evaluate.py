"""`impala-mi eval`."""

import json
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from impala_mi.cli.console import make_console
from impala_mi.errors import TrainingError

if TYPE_CHECKING:
    from impala_mi.analysis.evaluation import Evaluation


@click.command(name="eval")
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--episodes", type=click.IntRange(min=1), default=50, show_default=True, help="Of each level.")
@click.option("--checkpoint", default="last", show_default=True, help="last, best, or the name of one.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--training-levels", is_flag=True, help="Play the training levels, not their held-out variants.")
@click.option("--processes", type=click.IntRange(min=1), help="Games at a time [default: 16 to 64].")
@click.option("--against-random", is_flag=True, help="Let a random player play as many, and compare the intervals.")
@click.option("--no-task-ids", is_flag=True, help="Do not tell the agent which level it plays.")
@click.option("--greedy", is_flag=True, help="Take the policy's mode (most likely action) instead of a sample.")
def command(
    run: str,
    overrides: tuple[str, ...],
    episodes: int,
    checkpoint: str,
    seed: int,
    training_levels: bool,
    processes: int | None,
    against_random: bool,
    no_task_ids: bool,
    greedy: bool,
) -> None:
    """Score the agent of RUN (a folder) over complete episodes of its levels, held-out where the suite has such.

    Prints a table and writes eval/CHECKPOINT.json and .png in the run's folder. Dotted KEY=VALUE arguments set
    env.dmlab.*, for another machine's folders or other human scores.
    """
    from impala_mi.analysis.evaluation import draw_scores, evaluate, evaluation_suite
    from impala_mi.cli.trained import load_trained, playing, use_cores
    from impala_mi.runs.folder import write_atomically

    use_cores()
    trained = load_trained(run, checkpoint, overrides)
    suite = evaluation_suite(trained.suite, training_levels)
    console = make_console()
    result = evaluate(
        trained, suite, episodes, seed, greedy=greedy, task_ids=not no_task_ids, against_random=against_random,
        processes=processes, progress=lambda player, total: playing(player, total, console),
    )  # fmt: skip
    labels = [str(trained.folder.path), f"checkpoint {trained.checkpoint}", suite.variant, "greedy" * greedy]
    title = ", ".join(filter(None, labels))
    _show(console, result, title, suite.scores_note)
    suffix = "-training" * (suite.variant == "training levels") + "-greedy" * greedy
    file = trained.folder.path / "eval" / f"{trained.checkpoint}{suffix}.json"
    file.parent.mkdir(exist_ok=True)
    settings = {
        "checkpoint": trained.checkpoint, "seed": seed, "task_ids": not no_task_ids, "greedy": greedy,
        "variant": suite.variant or None, "scores": suite.scores_note or None,
    }  # fmt: skip
    write_atomically(file, json.dumps(settings | result.as_dict(), indent=1) + "\n")
    console.print(f"wrote {file}", soft_wrap=True)
    if any(row.score is not None for row in result.levels):
        picture = file.with_suffix(".png")
        draw_scores(result, title, picture)
        console.print(f"wrote {picture}", soft_wrap=True)
    if result.broken:
        raise TrainingError("without a mean: " + "; ".join(f"{k}: {why}" for k, why in result.broken.items()))


def _show(console: Console, result: "Evaluation", title: str, note: str) -> None:
    console.print(_table(result, title))
    if lost := sum(row.faults for row in result.levels):
        console.print(f"{lost} episodes were lost to faults of their levels and replaced")
    if note:
        console.print(note)
    if result.capped_mean is not None:
        interval = result.capped_interval
        within = "" if interval is None else f", 95 % interval [{interval[0]:.1f}, {interval[1]:.1f}]"
        console.print(f"mean capped score {result.capped_mean:.1f}{within}")


def _table(result: "Evaluation", title: str) -> Table:
    against_random = any(row.random is not None for row in result.levels)
    table = Table(title=title, title_justify="left")
    headings = [
        "level",
        "episodes",
        "return",
        "std error",
        "95 % interval",
        "random",
        "reference",
        "score",
        "capped",
    ]
    for heading in [*headings, "better than random"] if against_random else headings:
        table.add_column(heading, justify="left" if heading == "level" else "right", no_wrap=heading == "level")
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
