"""The grid of heads, numbers of tasks, contradictions and reward scales; each run is a part."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from impala_mi.config import Config, load
from impala_mi.envs.suites import make_suite
from impala_mi.nn.agent import meta_agent
from impala_mi.nn.meta import num_parameters
from impala_mi.reproductions.interference.gradient_cosines import gradient_cosines
from impala_mi.reproductions.interference.in_process import train_in_process
from impala_mi.reproductions.interference.interference_report import interference_data, report_from_data
from impala_mi.reproductions.interference.results import BASELINE, WITH_POPART, Point, Run, Transfer
from impala_mi.reproductions.interference.task_separation import separation_by_step
from impala_mi.reproductions.interference.transfer import train_and_transfer
from impala_mi.reproductions.network_stack import prepare_process
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import StudyReport, as_stored

WINDOWS = 20
"""Points of a learning curve."""
ENVS, ENVS_PER_TASK = 64, 2
"""Environments of a run: `ENVS` at least, and at least `ENVS_PER_TASK` of each task."""
CONFIG = "interference"
"""Shipped configuration with the settings of every run: an unroll is an episode of each environment."""
TOLD = ("per_task", "concat", "film_task", "low_rank_task", "hyper_task", "mi_task")
"""Heads that are told the task."""
HEADS: dict[str, dict[str, Any]] = {
    BASELINE: {"head": "shared"},
    "shared, as large as mi_task": {"head": "shared", "match_parameters": "mi_task"},
    **{head: {"head": head} for head in TOLD},
    **{head: {"head": head} for head in ("concat_context", "film_context", "low_rank_context", "mi_context")},
}
"""Settings of the agent by arm, without PopArt. Heads that are not told the task infer it from rewards."""
SEEN = (
    BASELINE,
    "shared, as large as mi_task",
    "concat_context",
    "film_context",
    "mi_context",
    "per_task",
    "mi_task",
)
"""Arms where the frame tells the task."""
SCALED = (BASELINE, "per_task", "mi_task")
"""Heads where tasks give rewards of different scales, without and with PopArt."""
ARMS = HEADS | {f"{head}{WITH_POPART}": HEADS[head] | {"value_normaliser": "popart"} for head in SCALED}
"""Settings of the agent by arm."""
SCALED_ARMS = (*SCALED, *(f"{head}{WITH_POPART}" for head in SCALED))
RATIO = 100.0
"""Quotient of the largest and the smallest reward where scales differ."""


@dataclass(frozen=True)
class InterferenceProtocol:
    """Runs of the study."""

    points: tuple[tuple[Point, tuple[str, ...]], ...]
    """Points of the map, each with names in `ARMS`."""
    separation: tuple[tuple[Point, str], ...]
    """Point and arm of the runs whose representations are compared between tasks at their end."""
    transfer: tuple[tuple[Point, tuple[str, ...]], ...]
    """Points at which these arms get one more task after their training."""
    frames: int
    """Env frames of a run, over all tasks."""
    transfer_frames: int
    """Env frames of the training with the new task, over all tasks."""

    def plan(self) -> Iterator[tuple[Point, str]]:
        """Point and arm of each run of a seed."""
        for point, arms in self.points:
            for arm in arms:
                yield point, arm


FULL = InterferenceProtocol(
    (
        *((Point(tasks, c), tuple(HEADS)) for tasks in (4, 16, 64) for c in (0.0, 0.25, 0.5, 1.0)),
        *((Point(16, c, task_in_frame=True), SEEN) for c in (0.5, 1.0)),
        *((Point(16, c, RATIO), SCALED_ARMS) for c in (0.5, 1.0)),
    ),
    ((Point(16, 0.5, task_in_frame=True), "mi_context"), (Point(16, 0.5), "mi_context")),
    ((Point(16, 0.5), (BASELINE, *TOLD)),),
    1_000_000,
    300_000,
)
QUICK = InterferenceProtocol(
    (
        (Point(16, 0.0), (BASELINE, "per_task", "mi_task")),
        (Point(16, 0.5), (BASELINE, "shared, as large as mi_task", *TOLD, "mi_context")),
        (Point(16, 1.0), (BASELINE, "shared, as large as mi_task", *TOLD)),
        *((Point(tasks, 0.5), (BASELINE, "per_task", "film_task", "mi_task")) for tasks in (4, 64)),
        (Point(16, 0.5, task_in_frame=True), SEEN),
        (Point(16, 0.5, RATIO), SCALED_ARMS),
    ),
    ((Point(16, 0.5, task_in_frame=True), "mi_context"),),
    ((Point(16, 0.5), (BASELINE, "per_task", "film_task", "mi_task")),),
    300_000,
    100_000,
)
"""Lines through the map; a pilot of one seed chose the heads, points and frames."""


def run_study(study: Study) -> StudyReport:
    """Train each arm at each point from each seed, and compare them; finished parts are read.

    `study.settings["repetitions"]` is the number of seeds. It cannot change in a folder: adding seeds after
    seeing the intervals would make them invalid.
    """
    protocol = QUICK if study.quick else FULL
    study.begin(**asdict(protocol), base=load(CONFIG).model_dump(mode="json"))
    prepare_process()
    seeds = [study.seed + number for number in range(study.settings["repetitions"])]
    plan = [(seed, point, arm) for seed in seeds for point, arm in protocol.plan()]
    added = [(seed, point, arm) for seed in seeds for point, arms in protocol.transfer for arm in arms]
    runs, transfers = [], []
    for number, (seed, point, arm) in enumerate(plan):
        study.progress(number / (len(plan) + len(added)), f"{arm}, {point.text()}, seed {seed}")
        measured = (point, arm) in protocol.separation
        config = run_config(arm, point, seed, protocol.frames)
        result = study.part(part_name(arm, point, seed), partial(train_part, config, arm == BASELINE, measured))
        runs.append(Run.from_part(arm, point, seed, result))
    for number, (seed, point, arm) in enumerate(added, len(plan)):
        study.progress(number / (len(plan) + len(added)), f"a new task for {arm}, {point.text()}, seed {seed}")
        before = run_config(arm, point, seed, protocol.frames)
        after = run_config(arm, replace(point, tasks=point.tasks + 1), seed, protocol.transfer_frames)
        result = study.part(f"transfer-{part_name(arm, point, seed)}", partial(train_and_transfer, before, after))
        transfers.append(Transfer(arm, point, seed, *(result[key] for key in ("frames", "new", "old"))))
    return report_from_data(as_stored(interference_data(runs, protocol.points, transfers)))


def part_name(arm: str, point: Point, seed: int) -> str:
    """Name of the part of one run."""
    name = arm.replace(", ", "-").replace(" + ", "-").replace(" ", "-")
    spread = "" if point.reward_ratio == 1 else f"x{point.reward_ratio:g}"
    shown = "-shown" * point.task_in_frame
    return f"{name}-{point.tasks}x{point.contradiction}{spread}{shown}-{seed}"


def run_config(arm: str, point: Point, seed: int, frames: int) -> Config:
    """Configuration of one run; all arms of a seed play the same rules."""
    envs = max(ENVS, ENVS_PER_TASK * point.tasks)
    settings = {f"env.interference.{key}": value for key, value in (asdict(point) | {"rules_seed": seed}).items()}
    settings |= {f"agent.{key}": value for key, value in ARMS[arm].items()}
    settings |= {"actors.count": 1, "actors.envs": envs, "learner.batch_size": envs}
    settings |= {"train.env_frames": frames, "seed": seed}
    return load(CONFIG, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def train_part(config: Config, with_cosines: bool = False, with_separation: bool = False) -> dict[str, Any]:
    """Train one run: its learning curve and the head's size.

    Args:
        config: configuration of the run.
        with_cosines: whether to measure the cosines of the levels' gradients after each window.
        with_separation: whether to measure how well representations tell the tasks apart at the end.
    """
    cosines: list[dict[str, Any]] = []
    separations: list[dict[str, Any]] = []
    suite = make_suite(config.env)

    def measure(learner: Any, batch: Any) -> None:
        if with_cosines:
            cosines.append(gradient_cosines(learner, batch))
        if with_separation and learner.counters.env_frames >= config.train.env_frames:
            separations.extend(separation_by_step(learner.agent, suite, config.seed))

    curve = train_in_process(config, suite, WINDOWS, measure)
    size = num_parameters(meta_agent(config.agent, suite.spaces).head)
    return asdict(curve) | {"cosines": cosines, "separation": separations, "head_parameters": size}
