"""`impala-mi cache`."""

import click
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from impala_mi.cli.console import allow_only, make_console
from impala_mi.config import MACHINE_KEYS
from impala_mi.errors import TrainingError, UserError


@click.command()
@click.argument("suite")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--levels", help="Names with commas between them; by default all that build maps.")
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True, help="Of each level.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="Of the runs to come."
)
@click.option("--processes", type=click.IntRange(min=1), help="Levels at a time; by default the number of cores.")
def command(
    suite: str, overrides: tuple[str, ...], levels: str | None, episodes: int, seed: int, processes: int | None
) -> None:
    """Compile the maps that runs of SUITE start with, so that their resets take seconds instead of a minute.

    A run with the same seed plays these episodes first, however many actors it has. With env.dmlab.held_out=true
    the maps are those of `impala-mi eval`.

    \b
        impala-mi cache dmlab30 --episodes 500
        impala-mi cache dmlab30 --levels explore_goal_locations_small env.dmlab.level_cache=/mnt/maps
    """
    from impala_mi import config
    from impala_mi.actors.rollout import FIRST_SEED_EPOCH
    from impala_mi.analysis.play import evaluation_root
    from impala_mi.envs.dmlab30 import SCORES
    from impala_mi.envs.suites import make_suite
    from impala_mi.envs.warm_cache import compiles_maps, warm_cache
    from impala_mi.host.threads import cores

    allow_only(overrides, (*MACHINE_KEYS, "held_out", "mixer_seed"), "; the seed is --seed")
    if suite != "dmlab30":
        raise UserError(f"suite {suite!r} compiles no maps; only dmlab30 has a level cache")
    chosen = [n for n in SCORES if compiles_maps(n)] if levels is None else [n.strip() for n in levels.split(",")]
    settings = config.build("cache", {"env": {"suite": suite, "levels": chosen}}, overrides)
    if settings.env.dmlab.level_cache is None:
        raise UserError("env.dmlab.level_cache=null: there is no cache to fill; name its folder")
    made = make_suite(settings.env)
    made.check()
    names = [name for name in made.level_names if compiles_maps(name)]
    console = make_console()
    if idle := [name for name in made.level_names if name not in names]:
        console.print(f"no maps to compile: {', '.join(idle)}")
    if not names:
        return
    root = evaluation_root(seed) if settings.env.dmlab.held_out else [seed, *FIRST_SEED_EPOCH]
    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("maps", total=episodes * len(names))
        filled = warm_cache(
            made,
            names,
            root,
            episodes,
            processes or cores(),
            lambda: progress.advance(task),
        )
    table = Table()
    for heading in ("level", "episodes", "compiled", "there before", "not stored", "reset s", "faults"):
        table.add_column(heading, justify="left" if heading == "level" else "right")
    for name, one in filled.items():
        counts = one.counts
        cells = (one.episodes, counts["cache_misses"], counts["cache_hits"], counts["cache_failures"])
        reset = f"{one.seconds / one.episodes:.2f}" if one.episodes else "-"
        table.add_row(name, *map(str, cells), reset, str(one.faults))
    console.print(table)
    for name, one in filled.items():
        if one.faults:
            console.print(f"{name}: {one.faults} faults, the last: {one.last_fault}", soft_wrap=True, highlight=False)
    console.print(f"maps in {settings.env.dmlab.level_cache}", soft_wrap=True)
    problems = [f"{name}: {one.last_fault}" for name, one in filled.items() if one.faults and not one.episodes]
    if failures := sum(one.counts["cache_failures"] for one in filled.values()):
        problems.append(f"{failures} maps could not be stored: is the folder full, or not ours?")
    if problems:
        raise TrainingError("; ".join(problems))
