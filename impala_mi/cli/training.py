"""What `train` and `resume` share: progress around the system, and its end in words."""

import shlex
import time

from impala_mi.cli.console import make_console
from impala_mi.cli.progress import duration, reporting
from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.runs.checkpoint import Checkpoint
from impala_mi.runs.folder import RunFolder
from impala_mi.training import trainer


def run_training(config: Config, folder: RunFolder, resumed: Checkpoint | None) -> int:
    """Train with progress, in a folder that the caller has locked; returns the exit code."""
    console = make_console()
    suite = make_suite(config.env)
    levels = f"{len(suite.levels)} level{'s' if len(suite.levels) > 1 else ''} of {suite.name}"
    actors = config.actors.number(len(suite.levels))
    console.print(f"run {folder.path}: {levels}, {actors} actors x {config.actors.envs} environments")
    if suite.scores_note:
        console.print(suite.scores_note)
    slots = actors * config.actors.envs
    if slots % len(suite.levels):
        console.print(
            f"note: {slots} environments are not a multiple of {len(suite.levels)} levels: some get one more"
        )
    began = time.monotonic()
    with reporting(config, suite, console) as report:
        result = trainer.train(config, folder, resumed, report)
    score = "" if result.score is None else f", score {result.score:.1f}"
    took = duration(time.monotonic() - began)
    console.print(f"{result.status} after {took}: {result.counters.env_frames:,} frames{score}")
    console.print(f"checkpoint {result.checkpoint}", soft_wrap=True)
    if result.status == "interrupted":
        console.print(f"continue with: impala-mi resume {shlex.quote(str(folder.path))}", soft_wrap=True)
        return 130
    return 0
