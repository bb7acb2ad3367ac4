"""Command `impala-mi cache`."""

import click
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from impala_mi.cli.console import make_console, make_table
from impala_mi.cli.options import OVERRIDES
from impala_mi.config_suites import MACHINE_KEYS
from impala_mi.errors import TrainingError, UserError, allow_only


@click.command()
@click.argument("suite")
@OVERRIDES
@click.option("--levels", help="Names of levels, separated by commas.  [default: all that build maps]")
@click.option(
    "--episodes", type=click.IntRange(1, 10**6), default=100, show_default=True, help="Episodes per level."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="Seed of the runs to come."
)
@click.option("--processes", type=click.IntRange(1, 4096), help="Levels at a time.  [default: number of cores]")
def command(
    suite: str, overrides: tuple[str, ...], levels: str | None, episodes: int, seed: int, processes: int | None
) -> None:
    """Compile the maps that runs of SUITE begin with, so that resets take seconds instead of a minute.

    A run with the same seed plays these episodes first, whatever its number of actors. With
    env.dmlab.held_out=true the maps are those of `impala-mi eval`.

    \b
        impala-mi cache dmlab30 --episodes 500
        impala-mi cache dmlab30 --levels explore_goal_locations_small env.dmlab.level_cache=/mnt/maps
    """
    from impala_mi import config
    from impala_mi.actors.rollout import FIRST_SEED_EPOCH
    from impala_mi.analysis.play import evaluation_root
    from impala_mi.envs.dmlab30 import CACHED, SCORES
    from impala_mi.envs.suites import make_suite
    from impala_mi.envs.warm_cache import warm_cache
    from impala_mi.host.threads import cores

    allow_only(overrides, (*MACHINE_KEYS, "held_out", "mixer_seed"), "; set the seed with --seed")
    if suite != "dmlab30":
        raise UserError(f"suite {suite!r} compiles no maps; only dmlab30 has a level cache")
    with_maps = [n for n in SCORES if n.startswith(CACHED)]
    chosen = with_maps if levels is None else [n.strip() for n in levels.split(",")]
    settings = config.build("cache", {"env": {"suite": suite, "levels": chosen}}, overrides)
    if settings.env.dmlab.level_cache is None:
        raise UserError("env.dmlab.level_cache=null: no cache to fill; set its folder")
    made = make_suite(settings.env)
    made.check()
    names = made.compiles
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
        results = warm_cache(made, names, root, episodes, processes or cores(), lambda: progress.advance(task))
    table = make_table(("level", "episodes", "compiled", "there before", "not stored", "reset s", "faults"))
    for name, result in results.items():
        counts = result.counts
        cells = (result.episodes, counts["cache_misses"], counts["cache_hits"], counts["cache_failures"])
        reset = f"{result.seconds / result.episodes:.2f}" if result.episodes else "-"
        table.add_row(name, *map(str, cells), reset, str(result.faults))
    console.print(table)
    faulty = {name: result for name, result in results.items() if result.faults}
    for name, result in faulty.items():
        message = f"{name}: {result.faults} faults, the last: {result.last_fault}"
        console.print(message, soft_wrap=True, highlight=False)
    console.print(f"maps in {settings.env.dmlab.level_cache}", soft_wrap=True)
    problems = [f"{name}: {result.last_fault}" for name, result in faulty.items() if not result.episodes]
    if failures := sum(result.counts["cache_failures"] for result in results.values()):
        problems.append(f"{failures} maps could not be stored: is the folder full, or not writable?")
    if problems:
        raise TrainingError("; ".join(problems))
