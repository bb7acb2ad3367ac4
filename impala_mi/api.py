"""Public API: train, load, act, evaluate and read runs from a program. `impala_mi` exports these names.

The functions import what they need when they are called, so that a program that acts does not load Ray.
"""

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impala_mi import config as configuration
from impala_mi.config import Config
from impala_mi.errors import UserError

if TYPE_CHECKING:
    from impala_mi.analysis.acting import TrainedAgent
    from impala_mi.analysis.evaluation import Evaluation
    from impala_mi.training.recorder import Report
    from impala_mi.training.trainer import Result

RunPath = str | os.PathLike[str]
"""Path of a run's folder."""


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    *,
    report: "Report | None" = None,
) -> "Result":
    """Train an agent in a new folder run.root/run.name until `train.env_frames`, as `impala-mi train` does.

    Starts a Ray of its own, or joins the cluster that RAY_ADDRESS names. Ctrl-C ends the run with a checkpoint and
    the status "interrupted"; call from the main thread.

    Args:
        config: a YAML file, the name of a shipped configuration such as "cartpole", nested mappings, or a `Config`.
        overrides: `KEY=VALUE` settings, for example ["train.max_time_s=60", "run.name=first"].
        report: called with every record of metrics.

    Returns:
        Status, counters, last checkpoint, score and `run`, the run's folder.

    Raises:
        UserError: the configuration is invalid, this machine cannot run it, or the folder exists.
        TrainingError: training cannot continue; the last checkpoint is kept.
    """
    name, settings = _settings(config, overrides)
    from impala_mi.runs.folder import new_run
    from impala_mi.training import preflight, trainer

    preflight.check(settings)
    with new_run(settings, name) as folder:
        return trainer.train(settings, folder, None, report or (lambda record: None))


def _settings(config: Any, overrides: Sequence[str]) -> tuple[str, Config]:
    """Name and validated settings of a configuration in any form that `train` takes."""
    if isinstance(overrides, str):
        raise UserError(f"overrides={overrides!r}: pass a list of KEY=VALUE strings")
    if isinstance(config, Config):
        return "run", configuration.build("config", config.model_dump(), overrides)
    if isinstance(config, Mapping):
        return "run", configuration.build("config", copy.deepcopy(dict(config)), overrides)
    if isinstance(config, str | os.PathLike):
        return Path(config).stem, configuration.load(os.fspath(config), overrides)
    raise UserError(
        f"config={config!r}: pass a YAML file, the name of a shipped configuration, a mapping or a Config"
    )


def load_agent(
    run: RunPath, checkpoint: str = "best", *, seed: int = 1, overrides: Sequence[str] = ()
) -> "TrainedAgent":
    """Load the agent of a run's folder for acting, on the CPU.

    `agent.initial_state()` and `agent.step(observation, state)` act in one environment or a batch, see
    `TrainedAgent`.

    Args:
        run: folder of the run.
        checkpoint: best, last, or the name of a checkpoint. If there is no best one, because no score was known
            during training, `best` loads the last with a warning.
        seed: seed of sampled actions.
        overrides: `KEY=VALUE` settings of env.dmlab that differ from machine to machine, such as
            env.dmlab.dataset_path, and env.dmlab.human_scores. Any other key is refused.

    Raises:
        UserError: there is no such run or checkpoint, its suite cannot be imported, or another key is set.
    """
    from impala_mi.analysis.acting import read_agent
    from impala_mi.runs import checkpoint as checkpoints
    from impala_mi.runs.folder import open_run

    path = os.fspath(run)
    folder = open_run(path).checkpoints
    if checkpoint == "best" and not checkpoints.has_best(folder) and checkpoints.steps(folder):
        warnings.warn(f"no best checkpoint in {str(folder)!r}: no score was known; using the last", stacklevel=2)
        checkpoint = "last"
    return read_agent(path, checkpoint, overrides, seed)


def evaluate(
    run: RunPath,
    checkpoint: str = "best",
    *,
    episodes: int = 50,
    seed: int = 1,
    greedy: bool = False,
    training_levels: bool = False,
    task_ids: bool = True,
    against_random: bool = False,
    overrides: Sequence[str] = (),
) -> "Evaluation":
    """Score the agent of a run's folder over complete episodes of its levels, as `impala-mi eval` does.

    Args:
        run: folder of the run.
        checkpoint: see `load_agent`.
        episodes: number of episodes of each level.
        seed: seed of the episodes and of sampled actions.
        greedy: take the policy's mode instead of a sample.
        training_levels: play the training levels, not their held-out variants.
        task_ids: tell the agent which level it plays.
        against_random: let a random player play as many episodes, and compare the intervals.
        overrides: see `load_agent`.

    Returns:
        Returns and normalised scores of each level with intervals, and the mean capped score.

    Raises:
        UserError: the run cannot be loaded, or this machine cannot play its levels.
    """
    from impala_mi.analysis import evaluation

    if episodes < 1:
        raise UserError(f"episodes={episodes}: must be at least 1")
    agent = load_agent(run, checkpoint, overrides=overrides)
    suite = evaluation.evaluation_suite(agent.suite, training_levels)
    suite.check()
    return evaluation.evaluate(
        agent, suite, episodes, seed, greedy=greedy, task_ids=task_ids, against_random=against_random
    )
