"""The grid of heads, numbers of tasks and contradictions; each run is a part."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from impala_mi.config import Config, build
from impala_mi.envs.suites import make_suite
from impala_mi.nn.agent import meta_agent
from impala_mi.nn.meta import num_parameters
from impala_mi.reproductions.interference.gradient_cosines import gradient_cosines
from impala_mi.reproductions.interference.in_process import train_in_process
from impala_mi.reproductions.interference.interference_report import BASELINE, Run, interference_report
from impala_mi.reproductions.network_stack import prepare_process
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import StudyReport

WINDOWS = 20
"""Points of a learning curve."""
ENVS, ENVS_PER_TASK = 64, 2
"""Environments of a run: at least so many, and so many of each task."""
BASE: dict[str, dict[str, Any]] = {
    "agent": {"torso": "mlp", "core": "lstm", "core_width": 64, "context_width": 32},
    "learner": {
        "unroll_length": 16, "discount": 0.5, "optimizer": "adam", "epsilon": 1e-6, "learning_rate": 2e-3,
        "max_grad_norm": 40.0, "entropy_cost": 0.1, "reward_clipping": "none",
    },
}  # fmt: skip
"""Settings of every run: an unroll is an episode, and a batch has an unroll of each environment."""
ARMS: dict[str, dict[str, Any]] = {
    BASELINE: {"head": "shared"},
    "shared, as large as mi_task": {"head": "shared", "match_parameters": "mi_task"},
    **{
        head: {"head": head}
        for head in ("per_task", "concat", "film_task", "low_rank_task", "hyper_task", "mi_task")
    },
    **{head: {"head": head} for head in ("concat_context", "film_context", "low_rank_context", "mi_context")},
}
"""Settings of the agent by arm. Heads that are not told the task infer it from rewards, with the LSTM."""


@dataclass(frozen=True)
class InterferenceProtocol:
    """Runs of the study."""

    tasks: tuple[int, ...]
    """Numbers of tasks."""
    contradictions: tuple[float, ...]
    """Shares of symbols on which tasks disagree."""
    arms: tuple[str, ...]
    """Names in `ARMS`."""
    frames: int
    """Env frames of a run, over all tasks."""

    def points(self) -> Iterator[tuple[int, float]]:
        """Number of tasks and contradiction of each point of the map."""
        for tasks in self.tasks:
            for contradiction in self.contradictions:
                yield tasks, contradiction


FULL = InterferenceProtocol((4, 16, 64), (0.0, 0.25, 0.5, 1.0), tuple(ARMS), 1_000_000)
QUICK = InterferenceProtocol((16,), (0.0, 0.5, 1.0), tuple(ARMS), 300_000)


def run_study(study: Study) -> StudyReport:
    """Train each arm at each point from each seed, and compare them; finished parts are read.

    `study.settings["repetitions"]` is the number of seeds. It cannot change in a folder: intervals that are looked
    at before it is decided whether to add seeds do not hold.
    """
    protocol = QUICK if study.quick else FULL
    study.begin(**asdict(protocol), base=BASE)
    prepare_process()
    seeds = [study.seed + number for number in range(study.settings["repetitions"])]
    plan = [(seed, point, arm) for seed in seeds for point in protocol.points() for arm in protocol.arms]
    runs = []
    for number, (seed, point, arm) in enumerate(plan):
        tasks, contradiction = point
        study.progress(number / len(plan), f"{arm}, {tasks} tasks, contradiction {contradiction}, seed {seed}")
        name = f"{arm.replace(', ', '-').replace(' ', '-')}-{tasks}x{contradiction}-{seed}"
        config = run_config(arm, tasks, contradiction, seed, protocol.frames)
        result = study.part(name, lambda config=config: train_part(config))  # type: ignore[misc]
        fields = {key: result[key] for key in ("frames", "scores", "cosines", "head_parameters")}
        runs.append(Run(arm, tasks, contradiction, seed, **fields))
    return interference_report(runs, protocol.arms)


def run_config(arm: str, tasks: int, contradiction: float, seed: int, frames: int) -> Config:
    """Configuration of one run; all arms of a seed play the same rules."""
    interference = {"tasks": tasks, "contradiction": contradiction, "rules_seed": seed}
    envs = max(ENVS, ENVS_PER_TASK * tasks)
    own: dict[str, Any] = {
        "env": {"suite": "interference", "interference": interference},
        "agent": BASE["agent"] | ARMS[arm],
        "actors": {"count": 1, "envs": envs},
        "learner": BASE["learner"] | {"batch_size": envs},
        "train": {"env_frames": frames},
        "seed": seed,
    }
    return build("interference", own)


def train_part(config: Config) -> dict[str, Any]:
    """Train one run: its learning curve, the head's size and, for the baseline, the gradients' cosines."""
    cosines: list[dict[str, Any]] = []
    suite = make_suite(config.env)

    def measure(learner: Any, batch: Any) -> None:
        if config.agent.head == BASELINE and config.agent.match_parameters is None:
            cosines.append(gradient_cosines(learner, batch))

    curve = train_in_process(config, suite, WINDOWS, measure)
    size = num_parameters(meta_agent(config.agent, suite.spaces).head)
    return asdict(curve) | {"cosines": cosines, "head_parameters": size}
