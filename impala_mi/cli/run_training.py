"""Training of one run with progress output, for `train` and `resume`."""

import os
import shlex
import time

from impala_mi.actors.rollout import assign_levels
from impala_mi.cli.console import make_console
from impala_mi.cli.progress import duration, reporting
from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.envs.map_compiles import compile_s
from impala_mi.envs.suites import make_suite
from impala_mi.host.threads import cores
from impala_mi.runs.checkpoint import Checkpoint
from impala_mi.runs.folder import RunFolder
from impala_mi.training import trainer


def run_training(config: Config, folder: RunFolder, resumed: Checkpoint | None) -> int:
    """Train with progress output, in a folder that the caller has locked; returns the exit code.

    The code is 1 if the run finished but its last copy to run.mirror failed; a warning says why.
    """
    console = make_console()
    suite = make_suite(config.env)
    count = len(suite.levels)
    actors = config.actors.number(count)
    environments = actors * config.actors.envs
    console.print(
        f"run {folder.path}: {count} level{'s' * (count > 1)} of {suite.name}, "
        f"{actors} actors x {config.actors.envs} environments"
    )
    if suite.scores_note:
        console.print(suite.scores_note)
    if environments % count:
        console.print(f"note: {environments} environments are not a multiple of {count} levels: some get one more")
    if suite.compiles:
        console.print(_startup(config, suite), soft_wrap=True)
    started = time.monotonic()
    with reporting(config, suite, console) as report:
        result = trainer.train(config, folder, resumed, report)
    score = "" if result.score is None else f", score {result.score:.1f}"
    took = duration(time.monotonic() - started)
    console.print(f"{result.status} after {took}: {result.counters.env_frames:,} frames{score}")
    console.print(f"checkpoint {result.checkpoint}", soft_wrap=True)
    if result.status == "interrupted":
        console.print(f"continue with: impala-mi resume {shlex.quote(str(folder.path))}", soft_wrap=True)
        return 130
    return 0 if result.mirrored else 1


def _startup(config: Config, suite: Suite) -> str:
    """Note on the time until all levels play, if no map that they begin with is cached."""
    with_maps = {k for k, level in enumerate(suite.levels) if level.name in suite.compiles}
    start = f"maps: {len(with_maps)} of {len(suite.levels)} levels compile one for each environment first"
    if os.environ.get("RAY_ADDRESS"):  # how many cores its nodes have is not known here
        return f"{start}; each node compiles as many at once as it has cores"
    games = sum(k in with_maps for levels in assign_levels(config.actors, len(suite.levels)) for k in levels)
    low, high = compile_s(games, cores())
    limit = config.actors.timeout_s
    advice = f"; raise actors.timeout_s={limit:g} above that" if high > limit else ""
    return (
        f"{start}; {games} maps on this machine's {cores()} cores take {duration(low)} to {duration(high)}, "
        f"or seconds if they are cached{advice}"
    )
