"""The grid of heads, numbers of tasks and contradictions; each run is a part."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from impala_mi.config import Config, build
from impala_mi.envs.suites import make_suite
from impala_mi.reproductions.interference.gradient_cosines import gradient_cosines
from impala_mi.reproductions.interference.in_process import train_in_process
from impala_mi.reproductions.interference.interference_report import BASELINE, Run, interference_report
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import StudyReport

WINDOWS = 20
"""Points of a learning curve."""
BASE = {
    "agent": {"torso": "mlp", "core": "lstm", "core_width": 64, "context_width": 32},
    "actors": {"count": 1, "envs": 64},
    "learner": {
        "unroll_length": 16, "batch_size": 64, "discount": 0.5, "optimizer": "adam", "epsilon": 1e-6,
        "learning_rate": 2e-3, "max_grad_norm": 40.0, "entropy_cost": 0.1, "reward_clipping": "none",
    },
}  # fmt: skip
"""Settings of every run: an unroll is an episode, and a batch has an unroll of each of 64 environments."""


@dataclass(frozen=True)
class InterferenceProtocol:
    """Runs of the study."""

    tasks: tuple[int, ...]
    """Numbers of tasks."""
    contradictions: tuple[float, ...]
    """Shares of symbols on which tasks disagree."""
    heads: tuple[str, ...]
    """Values of agent.head. Heads that are not told the task infer it from rewards, with the LSTM."""
    frames: int
    """Env frames of a run, over all tasks."""

    def points(self) -> Iterator[tuple[int, float]]:
        """Number of tasks and contradiction of each point of the map."""
        for tasks in self.tasks:
            for contradiction in self.contradictions:
                yield tasks, contradiction


HEADS = ("shared", "per_task", "concat", "film_task", "low_rank_task", "hyper_task", "mi_task", "mi_context")
FULL = InterferenceProtocol((4, 16, 64), (0.0, 0.25, 0.5, 1.0), HEADS, 1_000_000)
QUICK = InterferenceProtocol((16,), (0.0, 0.5, 1.0), HEADS, 300_000)


def run_study(study: Study) -> StudyReport:
    """Train each head at each point from each seed, and compare them; finished parts are read."""
    protocol = QUICK if study.quick else FULL
    study.begin(**asdict(protocol), base=BASE)
    torch.set_num_threads(1)
    seeds = [study.seed + number for number in range(study.settings["seeds"])]
    # All heads and points of a seed come before the next seed: an interrupted study is whole for fewer seeds.
    plan = [(s, p, head) for s in seeds for p in protocol.points() for head in protocol.heads]
    runs = []
    for number, (seed, point, head) in enumerate(plan):
        tasks, contradiction = point
        study.progress(number / len(plan), f"{head}, {tasks} tasks, contradiction {contradiction}, seed {seed}")
        name = f"{head}-{tasks}x{contradiction}-{seed}"
        config = run_config(head, tasks, contradiction, seed, protocol.frames)
        result = study.part(name, lambda config=config: train_part(config))  # type: ignore[misc]
        runs.append(Run(head, tasks, contradiction, seed, result["frames"], result["scores"], result["cosines"]))
    return interference_report(runs, asdict(protocol))


def run_config(head: str, tasks: int, contradiction: float, seed: int, frames: int) -> Config:
    """Configuration of one run."""
    own: dict[str, Any] = {
        "env": {"suite": "interference", "interference": {"tasks": tasks, "contradiction": contradiction}},
        "agent": BASE["agent"] | {"head": head},
        "train": {"env_frames": frames},
        "seed": seed,
    }
    return build("interference", BASE | own)


def train_part(config: Config) -> dict[str, Any]:
    """Train one run; returns its learning curve and, for the shared head, the gradients' cosines in each window."""
    cosines: list[dict[str, Any]] = []

    def measure(learner: Any, batch: Any) -> None:
        if config.agent.head == BASELINE:  # interference is that of the shared head
            cosines.append(gradient_cosines(learner, batch))

    curve = train_in_process(config, make_suite(config.env), WINDOWS, measure)
    return asdict(curve) | {"cosines": cosines}
