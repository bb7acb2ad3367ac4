"""`impala-mi eval`."""

import json

import click
from rich.table import Table

from impala_mi.cli.console import make_console
from impala_mi.errors import UserError


@click.command(name="eval")
@click.argument("run")
@click.option("--episodes", type=click.IntRange(min=1), default=50, show_default=True, help="Of each level.")
@click.option("--checkpoint", default="last", show_default=True, help="last, best, or the name of one.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--against-random", is_flag=True, help="Let a random player play as many, and compare the intervals.")
@click.option("--no-task-ids", is_flag=True, help="Do not tell the agent which level it plays.")
def command(run: str, episodes: int, checkpoint: str, seed: int, against_random: bool, no_task_ids: bool) -> None:
    """Score the agent of RUN (a folder) over complete episodes of its levels.

    Prints a table and writes eval/CHECKPOINT.json in the run's folder.
    """
    from impala_mi.analysis.evaluation import evaluate
    from impala_mi.analysis.play import play
    from impala_mi.cli.trained import load_trained, playing, use_cores
    from impala_mi.rundir import write_atomically

    use_cores()
    trained = load_trained(run, checkpoint)
    if no_task_ids and trained.config.agent.policy_needs_task:
        raise UserError(
            f"--no-task-ids: the policy of agent.head={trained.config.agent.head!r} with "
            f"agent.conditioned={trained.config.agent.conditioned!r} is chosen by the task ID and cannot act "
            "without it; train with agent.head=mi_context or agent.conditioned=value"
        )
    console = make_console()
    total = episodes * len(trained.suite.levels)
    with playing("agent", total, console) as count:
        mine = play(trained.agent, trained.suite, episodes, seed, tell_task=not no_task_ids, on_episode=count)
    random = None
    if against_random:
        with playing("random player", total, console) as count:
            random = play(None, trained.suite, episodes, seed + 1, on_episode=count)
    result = evaluate(trained.suite.levels, mine, random)

    table = Table(title=f"{trained.folder.path}, checkpoint {trained.checkpoint}", title_justify="left")
    headings = ["level", "episodes", "return", "95 % interval", "random", "reference", "score"]
    for heading in [*headings, "better than random"] if against_random else headings:
        table.add_column(heading, justify="left" if heading == "level" else "right")
    for row in result.levels:
        a, r = row.agent, row.random
        against = f"{r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]" if r is not None else _number(row.random_score)
        cells = [
            row.level, str(a.episodes), f"{a.mean:.2f}", f"[{a.low:.2f}, {a.high:.2f}]", against,
            _number(row.reference_score), _number(row.score, ".1f"),
        ]  # fmt: skip
        table.add_row(*cells, *([] if r is None else ["clearly" if row.clearly_better else "no"]))
    console.print(table)
    if result.capped_mean is not None:
        console.print(f"mean capped score {result.capped_mean:.1f}")
    file = trained.folder.path / "eval" / f"{trained.checkpoint}.json"
    file.parent.mkdir(exist_ok=True)
    settings = {"checkpoint": trained.checkpoint, "seed": seed, "task_ids": not no_task_ids}
    write_atomically(file, json.dumps(settings | result.as_dict(), indent=1) + "\n")
    console.print(f"wrote {file}", soft_wrap=True)


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)
