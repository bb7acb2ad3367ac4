"""Command `impala-mi train`."""

import time
from typing import TYPE_CHECKING

import click

from impala_mi import config as configuration
from impala_mi.cli.options import start_options
from impala_mi.config_text import find
from impala_mi.errors import UserError
from impala_mi.paths import local_path

if TYPE_CHECKING:
    from impala_mi.runs.folder import RunFolder


@click.command()
@start_options("continue the run if its folder (or run.mirror) has a checkpoint")
def command(config: str, overrides: tuple[str, ...], resume_mode: str, print_config: bool) -> int:
    """Train an agent with CONFIG: a YAML file, or the name of a shipped configuration.

    KEY=VALUE arguments override its keys, for example:

    \b
        impala-mi train configs/doom.yaml learner.batch_size=64 run.name=first

    Results go to the folder runs/NAME. Ctrl-C writes a checkpoint and exits; `impala-mi resume` continues.
    """
    name, _ = find(config)
    loaded = configuration.load(config, overrides)
    if print_config:
        click.echo(configuration.to_yaml(loaded), nl=False)
        return 0
    from impala_mi.cli.run_training import run_training
    from impala_mi.runs.folder import new_run
    from impala_mi.training import preflight

    preflight.check(loaded)
    if resume_mode == "auto" and (folder := _submitted_before(loaded)) is not None:
        return _continue(folder, loaded, overrides)
    with new_run(loaded, name) as folder:
        return run_training(loaded, folder, None)


def _submitted_before(config: configuration.Config) -> "RunFolder | None":
    """Run of an earlier submission, if its folder or its mirror has a checkpoint.

    A folder without a checkpoint, or with an older one than the mirror's, is renamed.
    """
    from impala_mi.runs import checkpoint as checkpoints
    from impala_mi.runs.folder import RunFolder, is_population
    from impala_mi.runs.mirror import Mirror

    if config.run.name is None:
        raise UserError("--resume auto needs run.name, so that a job that is resubmitted finds its run")
    path = local_path(config.run.root, "run.root") / config.run.name
    folder = RunFolder(path)
    if is_population(path):
        raise UserError(f"--resume auto: {str(path)!r} is a population; continue it with: impala-mi pbt")
    local = checkpoints.steps(folder.checkpoints)
    mirror = None if config.run.mirror is None else Mirror(config.run.mirror, path)
    remote = None if mirror is None else mirror.newest()
    remote_is_newer = remote is not None and (not local or remote > local[-1].name)
    if path.exists() and (remote_is_newer or not local):
        with folder.locked():  # raises if another process trains it
            path.rename(path.with_name(f"{path.name}-aside-{time.strftime('%Y%m%d-%H%M%S')}"))
    if mirror is not None and remote_is_newer:
        path.parent.mkdir(parents=True, exist_ok=True)
        mirror.pull()
        return folder
    return folder if local else None


def _continue(folder: "RunFolder", config: configuration.Config, overrides: tuple[str, ...]) -> int:
    """Resume a run; one that is complete is a success."""
    from impala_mi.cli.resume import RunDone, resume

    try:
        return resume(folder, config, "last", overrides)
    except RunDone as e:
        click.echo(str(e).partition(";")[0])
        return 0
