"""Command `impala-mi resume`."""

from typing import TYPE_CHECKING

import click

from impala_mi import config as configuration
from impala_mi.cli.options import OVERRIDES
from impala_mi.errors import UserError

if TYPE_CHECKING:
    from impala_mi.runs.checkpoint import Checkpoint
    from impala_mi.runs.folder import RunFolder

FIXED = (
    "run.root", "run.name", "seed", "env.suite", "env.levels", "env.action_repeat", "env.gym", "env.envpool",
    "env.interference", "env.dmlab.actions", "env.dmlab.held_out", "env.dmlab.mixer_seed", "env.dmlab.human_scores",
    "agent", "train.deterministic",
)  # fmt: skip
"""Keys that a resumed run keeps."""
FIXED_IF_DETERMINISTIC = ("actors", "learner", "train.checkpoint_every_updates", "train.env_frames")


class RunDone(UserError):
    """The run has reached its end."""


@click.command()
@click.argument("run")
@OVERRIDES
@click.option("--checkpoint", default="last", show_default=True, help="last, best, or the name of a checkpoint.")
def command(run: str, overrides: tuple[str, ...], checkpoint: str) -> int:
    """Continue RUN (a folder) from a checkpoint.

    KEY=VALUE arguments change the configuration: resources, settings of the learner and the length of training, but
    not the agent, the levels or the seed.
    """
    from impala_mi.runs import folder as run_folder

    if (path := run_folder.local_population(run)) is not None:
        from impala_mi.cli import pbt
        from impala_mi.pbt.settings import PopulationConfig

        if checkpoint != "last":
            raise UserError(f"--checkpoint {checkpoint}: members of a population continue from their last")
        population = run_folder.RunFolder(path)
        return pbt.resume(population, population.config_as(PopulationConfig, overrides), overrides)
    folder = run_folder.open_run(run)
    if run_folder.is_population(population_path := folder.path.absolute().parent.parent):
        raise UserError(
            f"{run!r} is a member of a population, which continues as a whole: impala-mi resume {population_path}"
        )
    new = configuration.build(run, folder.config.model_dump(), overrides)
    return resume(folder, new, checkpoint, overrides)


def resume(folder: "RunFolder", new: configuration.Config, checkpoint: str, overrides: tuple[str, ...]) -> int:
    """Continue a run with a new configuration; returns the exit code.

    Raises `UserError` if a fixed key differs from the run's, and `RunDone` if the run is complete.
    """
    from impala_mi.cli.run_training import run_training
    from impala_mi.runs import checkpoint as checkpoints

    with folder.locked():
        saved = _checked(folder, new, checkpoint)
        folder.save_config(new)
        abandoned = checkpoints.forget_after(folder.checkpoints, saved)
        folder.event("resumed", checkpoint=saved.path.name, overrides=list(overrides), abandoned=abandoned)
        return run_training(new, folder, saved)


def _checked(folder: "RunFolder", new: configuration.Config, checkpoint: str) -> "Checkpoint":
    """Load the checkpoint to continue from; raises as `resume`."""
    from impala_mi.nn.agent import meta_agent
    from impala_mi.runs import checkpoint as checkpoints
    from impala_mi.runs import folder as run_folder
    from impala_mi.training import preflight
    from impala_mi.training.resume_checks import check_resumable

    old, run = folder.config, folder.path
    for key in (*FIXED, *(FIXED_IF_DETERMINISTIC if old.train.deterministic else ())):
        before, after = configuration.get(old, key), configuration.get(new, key)
        if before != after:
            raise UserError(f"{key} cannot change when a run is resumed: it is {before!r}, not {after!r}")
    suite = preflight.check(new)
    if new.learner.optimizer != old.learner.optimizer:
        raise UserError(
            f"learner.optimizer cannot change when a run is resumed: the checkpoint holds the state of "
            f"{old.learner.optimizer!r}, not {new.learner.optimizer!r}"
        )
    agent = meta_agent(new.agent, suite.spaces)
    saved = checkpoints.load(folder.checkpoints, checkpoint, lambda read: check_resumable(read, new, suite, agent))
    limit = new.train.max_time_s
    if limit is not None and saved.run["time_s"] >= limit:
        raise RunDone(
            f"the run is done: it has trained for {saved.run['time_s']:.0f} s of train.max_time_s={limit:.0f}; "
            f"train longer with: impala-mi resume {run} train.max_time_s=null"
        )
    if saved.meta["env_frames"] >= new.train.env_frames:
        raise RunDone(
            f"the run is done: {saved.meta['env_frames']} of train.env_frames={new.train.env_frames}; "
            f"train longer with: impala-mi resume {run} train.env_frames={2 * new.train.env_frames}"
        )
    run_folder.check_disk(folder.path)
    return saved
