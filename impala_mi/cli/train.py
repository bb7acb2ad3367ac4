"""`impala-mi train`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from impala_mi import config as configuration
from impala_mi.cli.options import starting
from impala_mi.errors import UserError

if TYPE_CHECKING:
    from impala_mi.runs.folder import RunFolder


@click.command()
@starting("go on with the run if its folder (or run.mirror) holds it")
def command(config: str, overrides: tuple[str, ...], again: str, print_config: bool) -> int:
    """Train an agent as CONFIG says: a YAML file, or a shipped one by name.

    Dotted KEY=VALUE arguments override it, for example:

    \b
        impala-mi train configs/doom.yaml learner.batch_size=64 run.name=first

    The results are in the folder runs/NAME. Ctrl-C writes a checkpoint and ends; `impala-mi resume` goes on.
    """
    name, _ = configuration.find(config)
    loaded = configuration.load(config, overrides)
    if print_config:
        click.echo(configuration.to_yaml(loaded), nl=False)
        return 0
    from impala_mi.cli.training import run_training
    from impala_mi.runs.folder import new_run
    from impala_mi.runs.mirror import Mirror
    from impala_mi.training import preflight

    preflight.check(loaded)
    if loaded.run.mirror is not None:
        Mirror(loaded.run.mirror, Path("."))  # raises where its URL makes no sense
    if again == "auto" and (before := _before(loaded)) is not None:
        return _go_on(before, loaded, overrides)
    run = loaded.run.name or f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with new_run(loaded, run) as folder:
        return run_training(loaded, folder, None)


def _before(config: configuration.Config) -> "RunFolder | None":
    """The run of an earlier submission, if it has a checkpoint, here or in its mirror.

    A folder without one, or with an older one than the mirror's, is set aside.
    """
    from impala_mi.runs import checkpoint as checkpoints
    from impala_mi.runs.folder import RunFolder, is_population
    from impala_mi.runs.mirror import Mirror

    if config.run.name is None:
        raise UserError("--resume auto needs run.name, by which a job that is resubmitted finds its run")
    path = Path(config.run.root).expanduser() / config.run.name
    folder = RunFolder(path)
    if is_population(path):
        raise UserError(f"--resume auto: {str(path)!r} is a population, which goes on with: impala-mi pbt")
    here = checkpoints.steps(folder.checkpoints)
    mirror = None if config.run.mirror is None else Mirror(config.run.mirror, path)
    there = None if mirror is None else mirror.newest()
    newer_there = there is not None and (not here or there > here[-1].name)
    if path.exists() and (newer_there or not here):
        with folder.locked():  # raises where another process trains it
            path.rename(path.with_name(f"{path.name}-aside-{time.strftime('%Y%m%d-%H%M%S')}"))
    if mirror is not None and newer_there:
        path.parent.mkdir(parents=True, exist_ok=True)
        mirror.pull()
        return folder
    return folder if here else None


def _go_on(folder: "RunFolder", config: configuration.Config, overrides: tuple[str, ...]) -> int:
    from impala_mi.cli.resume import RunDone, resume

    try:
        return resume(folder, config, "last", overrides)
    except RunDone as e:
        click.echo(str(e).partition(";")[0])
        return 0
