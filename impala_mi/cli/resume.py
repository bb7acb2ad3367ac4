"""`impala-mi resume`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from impala_mi import config as configuration
from impala_mi.errors import UserError

if TYPE_CHECKING:
    from impala_mi.runs.checkpoint import Checkpoint
    from impala_mi.runs.folder import RunFolder

FIXED = (
    "run.root",
    "run.name",
    "seed",
    "env.suite",
    "env.levels",
    "env.action_repeat",
    "env.dmlab.actions",
    "env.dmlab.held_out",
    "env.dmlab.mixer_seed",
    "env.dmlab.human_scores",
    "agent",
    "train.deterministic",
)
FIXED_IF_DETERMINISTIC = ("actors", "learner", "train.checkpoint_every_updates", "train.env_frames")


class RunDone(UserError):
    """A run has reached its end."""


@click.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--checkpoint", default="last", show_default=True, help="last, best, or the name of one.")
def command(run: str, overrides: tuple[str, ...], checkpoint: str) -> int:
    """Continue RUN (a folder) where a checkpoint left it.

    Dotted KEY=VALUE arguments change the configuration: resources, the learner's settings and how long to train,
    but not the agent, the levels or the seed.
    """
    from impala_mi.runs import folder as run_folder

    if run_folder.is_population(Path(run).expanduser()):
        from impala_mi.cli import pbt
        from impala_mi.pbt.settings import PopulationConfig

        if checkpoint != "last":
            raise UserError(f"--checkpoint {checkpoint}: members of a population go on from their last ones")
        population = run_folder.RunFolder(Path(run).expanduser())
        return pbt.resume(population, population.config_as(PopulationConfig, overrides), overrides)
    folder = run_folder.open_run(run)
    if run_folder.is_population(whole := folder.path.absolute().parent.parent):
        raise UserError(f"{run!r} is a member of a population, which goes on as a whole: impala-mi resume {whole}")
    new = configuration.build(run, folder.config.model_dump(), overrides)
    return resume(folder, new, checkpoint, overrides)


def resume(folder: "RunFolder", new: configuration.Config, checkpoint: str, overrides: tuple[str, ...]) -> int:
    """Continue a run with a configuration that may differ from its own; returns the exit code.

    Raises `UserError` where it may not differ so, and `RunDone` where there is nothing left to do.
    """
    from impala_mi.cli.training import run_training
    from impala_mi.runs import checkpoint as checkpoints

    with folder.locked():
        found = _checked(folder, new, checkpoint)
        folder.save_config(new)
        abandoned = checkpoints.forget_after(folder.checkpoints, found)
        folder.event("resumed", checkpoint=found.path.name, overrides=list(overrides), abandoned=abandoned)
        return run_training(new, folder, found)


def _checked(folder: "RunFolder", new: configuration.Config, checkpoint: str) -> "Checkpoint":
    """The checkpoint to go on from, if the run can go on from it as configured."""
    import torch

    from impala_mi.nn.agent import Agent
    from impala_mi.runs import checkpoint as checkpoints
    from impala_mi.runs import folder as run_folder
    from impala_mi.training import preflight

    old, run = folder.config, folder.path
    for key in (*FIXED, *(FIXED_IF_DETERMINISTIC if old.train.deterministic else ())):
        before, after = configuration.get(old, key), configuration.get(new, key)
        if before != after:
            raise UserError(f"{key} cannot change when a run is resumed: it is {before!r}, not {after!r}")
    suite = preflight.check(new)
    found = checkpoints.load(folder.checkpoints, checkpoint)
    with torch.device("meta"):
        agent = Agent(new.agent, suite.spaces)
    checkpoints.check_fits(found, agent)
    if new.learner.optimizer != old.learner.optimizer:
        raise UserError(
            f"learner.optimizer cannot change when a run is resumed: the checkpoint holds the state of "
            f"{old.learner.optimizer!r}, not {new.learner.optimizer!r}"
        )
    limit = new.train.max_time_s
    if limit is not None and found.run["time_s"] >= limit:
        raise RunDone(
            f"the run is done: it has trained for {found.run['time_s']:.0f} s of train.max_time_s={limit:.0f}; "
            f"train longer with: impala-mi resume {run} train.max_time_s=null"
        )
    if found.meta["env_frames"] >= new.train.env_frames:
        raise RunDone(
            f"the run is done: {found.meta['env_frames']} of train.env_frames={new.train.env_frames}; "
            f"train longer with: impala-mi resume {run} train.env_frames={2 * new.train.env_frames}"
        )
    run_folder.check_disk(folder.path)
    return found
