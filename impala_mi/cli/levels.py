"""`impala-mi levels`."""

import click
from rich.table import Table

from impala_mi.cli.console import make_console


@click.command()
@click.argument("suite")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--measure-random", type=click.IntRange(min=1), help="Play so many random episodes of each level.")
def command(suite: str, overrides: tuple[str, ...], measure_random: int | None) -> None:
    """List the levels of SUITE: what a random player scores, the reference that counts as 100, and its source.

    \b
        impala-mi levels doom
        impala-mi levels gym 'env.levels=[CartPole-v1]' --measure-random 100
    """
    from impala_mi import config
    from impala_mi.analysis.evaluation import summarise
    from impala_mi.analysis.play import play
    from impala_mi.cli.trained import playing
    from impala_mi.envs.suites import make_suite

    made = make_suite(config.build("levels", {"env": {"suite": suite}}, overrides).env)
    console = make_console()
    measured = None
    if measure_random is not None:
        made.check()
        with playing("random player", measure_random * len(made.levels), console) as count:
            measured = [summarise(e) for e in play(None, made, measure_random, 1, on_episode=count)]
    spaces = made.spaces
    console.print(
        f"{made.name}: frames {list(spaces.frame_shape)} {spaces.frame_dtype}, {spaces.num_actions} actions "
        f"({', '.join(made.actions)}), action repeat {made.action_repeat}, "
        f"instructions {'yes' if spaces.instructions else 'no'}"
    )
    table = Table()
    for title in ("level", "random", "reference", "source of the reference", "reward scale"):
        table.add_column(title, justify="left" if title in ("level", "source of the reference") else "right")
    if measured is not None:
        table.add_column(f"random, {measure_random} episodes", justify="right")
    for k, level in enumerate(made.levels):
        cells = [
            level.name,
            "-" if level.random_score is None else f"{level.random_score:g}",
            "-" if level.reference_score is None else f"{level.reference_score:g}",
            level.reference_source or "-",
            f"{level.reward_scale:g}",
        ]
        if measured is not None:
            cells.append(f"{measured[k].mean:.4g} +- {measured[k].stderr:.2g} (length {measured[k].length:.0f})")
        table.add_row(*cells)
    console.print(table)
    if made.scores_note:
        console.print(made.scores_note)
