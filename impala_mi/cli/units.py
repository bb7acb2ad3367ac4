"""Command `impala-mi units`."""

import json
from typing import TYPE_CHECKING

import click

from impala_mi.cli.console import check_writable, list_written, make_console
from impala_mi.cli.options import agent_options

if TYPE_CHECKING:
    from impala_mi.analysis.units import Ablated


@click.command()
@agent_options(episodes=10, per="level and unit", min_episodes=2)
@click.option(
    "--of",
    "kind",
    type=click.Choice(["context", "rows"]),
    default="context",
    show_default=True,
    help="Units of the context, or rows of the policy's generated weights (one per action).",
)
@click.option(
    "--most",
    type=click.IntRange(1, 10**6),
    metavar="N",
    help="Only the N most selective units, or the first N rows.",
)
def command(
    run: str,
    overrides: tuple[str, ...],
    episodes: int,
    checkpoint: str,
    seed: int,
    kind: "Ablated",
    most: int | None,
) -> None:
    """Show the drop of each level's return while a single unit of RUN's agent is held at 0.

    Writes RUN/units/CHECKPOINT-context.png, a heat map, and the numbers (.json), with each unit's selectivity.
    Plays every level once more per unit. KEY=VALUE arguments set env.dmlab.*, for the folders of another machine.
    """
    import numpy as np

    from impala_mi.analysis import units
    from impala_mi.analysis.recording import record
    from impala_mi.cli.trained import episode_bar, load_trained

    console = make_console()
    trained = load_trained(run, checkpoint, overrides)
    suite, agent = trained.suite, trained.network
    units.check_ablatable(agent)
    folder = check_writable(trained.folder.path / "units")
    numbers, strength = np.arange(units.count(agent, kind)), None
    preferred: list[int | None] = []
    if kind == "context":
        with episode_bar("recording", episodes * len(suite.levels), console) as bar:
            level, prefers = units.selectivity(record(agent, suite, episodes, 400, seed, bar))
        numbers = np.argsort(-prefers, kind="stable")
        strength = prefers[numbers][:most]
        preferred = [int(level[n]) if prefers[n] > 0 else None for n in numbers[:most]]
    numbers = numbers[:most]
    total = units.episodes_played(len(suite.levels), len(numbers), episodes)
    with episode_bar("playing", total, console) as bar:
        drops = units.ablate(agent, suite, kind, numbers.tolist(), episodes, seed, bar)
    file = folder / f"{trained.checkpoint}-{kind}.png"
    title = f"{trained.folder.path.resolve().name}, {trained.checkpoint}\nwithout single " + (
        "units of the context" if kind == "context" else "rows of the generated weights"
    )
    units.draw_drops(drops, suite.level_names, preferred, title, file)
    rho = None
    if strength is not None and len(strength) == units.count(agent, kind):  # a selection would bias it
        rho = units.agreement(strength, drops)
    values = {
        "levels": suite.level_names, "names": drops.names, "drop": drops.drop.tolist(), "p": drops.p.tolist(),
        "real": drops.real.tolist(), "normalised": drops.normalised, "rank_correlation": rho,
        "selectivity": None if strength is None else strength.tolist(),
        "preferred": [None if k is None else suite.level_names[k] for k in preferred],
    }  # fmt: skip
    file.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
    share = f"{drops.real.sum()} of {drops.drop.size}"
    console.print(f"{share} drops or gains are real (false discovery rate {units.FALSE_DISCOVERY_RATE:.0%})")
    if rho is not None:
        console.print(f"rank correlation of selectivity and mean absolute drop: {rho:.2f}")
    list_written(console, [file])
