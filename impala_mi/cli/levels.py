"""Command `impala-mi levels`."""

from typing import TYPE_CHECKING

import click

from impala_mi.cli.console import make_console, make_table
from impala_mi.cli.options import OVERRIDES

if TYPE_CHECKING:
    from impala_mi.types import ActionSpace


@click.command()
@click.argument("suite")
@OVERRIDES
@click.option(
    "--measure-random", type=click.IntRange(1, 10**6), metavar="N", help="Play N random episodes of each level."
)
def command(suite: str, overrides: tuple[str, ...], measure_random: int | None) -> None:
    """List the levels of SUITE: score of a random player, reference score that counts as 100, and its source.

    \b
        impala-mi levels doom
        impala-mi levels gym 'env.levels=[CartPole-v1]' --measure-random 100
    """
    from impala_mi import config
    from impala_mi.analysis.evaluation import summarise
    from impala_mi.analysis.play import play
    from impala_mi.cli.trained import episode_bar
    from impala_mi.envs.suites import make_suite

    made = make_suite(config.build("levels", {"env": {"suite": suite}}, overrides).env)
    console = make_console()
    headings = ["level", "random", "reference", "source of the reference", "reward scale"]
    measured = None
    if measure_random is not None:
        made.check()
        with episode_bar("random player", measure_random * len(made.levels), console) as bar:
            measured = [summarise(e) for e in play(None, made, measure_random, 1, on_episode=bar)]
        headings.append(f"random, {measure_random} episodes")
    spaces = made.spaces
    console.print(
        f"{made.name}: frames {list(spaces.frame_shape)} {spaces.frame_dtype}, {describe(spaces.action_space)} "
        f"({', '.join(made.actions)}), action repeat {made.action_repeat}, "
        f"instructions {'yes' if spaces.instructions else 'no'}"
    )
    table = make_table(headings, left=("source of the reference",))
    for k, level in enumerate(made.levels):
        scores = ["-" if s is None else f"{s:g}" for s in (level.random_score, level.reference_score)]
        cells = [level.name, *scores, level.reference_source or "-", f"{level.reward_scale:g}"]
        if measured is not None:
            cells.append(f"{measured[k].mean:.4g} +- {measured[k].stderr:.2g} (length {measured[k].length:.0f})")
        table.add_row(*cells)
    console.print(table)
    if made.scores_note:
        console.print(made.scores_note)


def describe(space: "ActionSpace") -> str:
    """Size of an action space in words, such as "9 actions"."""
    from impala_mi.types import Discrete, MultiDiscrete

    if isinstance(space, Discrete):
        return f"{space.n} actions"
    if isinstance(space, MultiDiscrete):
        *sizes, last = map(str, space.sizes)
        return f"choices of {', '.join(sizes)} and {last} actions" if sizes else f"a choice of {last} actions"
    (count,) = space.shape
    return f"{count} real number{'s' * (count > 1)}"
