"""`impala-mi train`."""

import shutil
import time

import click

from impala_mi import config as configuration
from impala_mi.errors import UserError


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--print-config", is_flag=True, help="Print the whole configuration and exit.")
def command(config: str, overrides: tuple[str, ...], print_config: bool) -> int:
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
    from impala_mi import preflight, rundir
    from impala_mi.cli.training import run_training

    preflight.check(loaded)
    run = loaded.run.name or f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = rundir.create(loaded, run)
    try:
        return run_training(loaded, folder, None)
    except (UserError, KeyboardInterrupt):
        if not folder.checkpoints.exists():  # nothing was done, for Ray had not started: the name stays free
            shutil.rmtree(folder.path)
        raise
