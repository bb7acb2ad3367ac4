"""`impala-mi units`."""

import json

import click

from impala_mi.cli.console import make_console


@click.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--of",
    "what",
    type=click.Choice(["context", "rows"]),
    default="context",
    show_default=True,
    help="Units of the context, or the rows of the policy's generated weights (one an action).",
)
@click.option("--most", type=click.IntRange(min=1), help="Only so many: the most selective units, the first rows.")
@click.option(
    "--episodes", type=click.IntRange(min=2), default=10, show_default=True, help="Of each level and unit."
)
@click.option("--checkpoint", default="last", show_default=True, help="last, best, or the name of one.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def command(
    run: str, overrides: tuple[str, ...], what: str, most: int | None, episodes: int, checkpoint: str, seed: int
) -> None:
    """Show which units of RUN's agent are whose: what each level loses when one is held at 0.

    Writes RUN/units/CHECKPOINT-context.png, a heat map, and the numbers (.json), with each unit's selectivity.
    Plays every level once more for each unit. Dotted KEY=VALUE arguments set env.dmlab.*, for another machine's
    folders.
    """
    import numpy as np

    from impala_mi.analysis import units
    from impala_mi.analysis.recording import record
    from impala_mi.cli.trained import load_trained, output, playing, use_cores

    use_cores()
    console = make_console()
    kind: units.What = "rows" if what == "rows" else "context"
    trained = load_trained(run, checkpoint, overrides)
    suite, agent = trained.suite, trained.network
    units.check(agent, kind)
    folder = output(trained, "units")
    numbers, strength = np.arange(units.count(agent, kind)), None
    preferred: list[int | None] = []
    if kind == "context":
        with playing("recording", episodes * len(suite.levels), console) as bar:
            level, prefers = units.selectivity(record(agent, suite, episodes, 400, seed, bar))
        numbers = np.argsort(-prefers, kind="stable")
        strength = prefers[numbers][:most]
        preferred = [int(level[n]) if prefers[n] > 0 else None for n in numbers[:most]]
    numbers = numbers[:most]
    total = units.episodes_played(len(suite.levels), len(numbers), episodes)
    with playing("playing", total, console) as bar:
        found = units.ablate(agent, suite, kind, numbers.tolist(), episodes, seed, bar)
    file = folder / f"{trained.checkpoint}-{kind}.png"
    title = f"{trained.folder.path.resolve().name}, {trained.checkpoint}\nwithout single " + (
        "units of the context" if kind == "context" else "rows of the generated weights"
    )
    units.draw(found, suite.level_names, preferred, title, file)
    whole = strength is not None and len(strength) == units.count(agent, kind)  # of the most selective it misleads
    rho = units.agreement(strength, found) if strength is not None and whole else None
    values = {
        "levels": suite.level_names, "names": found.names, "drop": found.drop.tolist(), "p": found.p.tolist(),
        "real": found.real.tolist(), "normalised": found.normalised, "rank_correlation": rho,
        "selectivity": None if strength is None else strength.tolist(),
        "preferred": [None if k is None else suite.level_names[k] for k in preferred],
    }  # fmt: skip
    file.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
    console.print(
        f"{found.real.sum()} of {found.drop.size} drops or gains are real (false discovery rate {units.RATE:.0%})"
    )
    if rho is not None:
        console.print(f"rank correlation of selectivity and mean absolute drop: {rho:.2f}")
    console.print(f"wrote {file}", soft_wrap=True)
