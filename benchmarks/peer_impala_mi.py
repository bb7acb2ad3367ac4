"""Benchmark run by a side-by-side harness: impala-mi on the work that all compared systems do.

The harness runs it (`suite.py --add 'impala-mi=PYTHON benchmarks/peer_impala_mi.py --env {env}'`) with its own
folder, which holds `bench_envs` and `meter`, on the path. Arguments KEY=VALUE override the configuration.

The network equals that of the other systems, except that its LSTM also gets the last action and reward: 10 more
inputs with 9 actions.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import bench_envs
from meter import Meter

from impala_mi.config import EnvConfig, build
from impala_mi.envs.base import Level, Observation, Outcome, Suite
from impala_mi.runs import folder as run_folder
from impala_mi.training import trainer
from impala_mi.types import Spaces

OVERRIDES = [
    "env.suite=peer_impala_mi:suite", "agent.torso=shallow", "agent.core=lstm", "agent.head=shared",
    "learner.unroll_length=32", "learner.batch_size=32", "learner.learning_rate=5e-4", "learner.optimizer=rmsprop",
    "learner.learning_rate_schedule=constant", "learner.max_grad_norm=40.0", "learner.reward_clipping=none",
    "train.env_frames=1e15", "train.log_every_s=2.0",
]  # fmt: skip

BEST = {
    # The learner is the bottleneck, and one actor can feed it.
    "synthetic": ["actors.count=1", "actors.envs=32", "learner.num_threads=2"],
    # The games are the bottleneck. They run in processes of their own, so one actor keeps two cores busy.
    "doom": ["actors.count=1", "actors.envs=32", "learner.num_threads=1"],
}
"""Fastest settings on 2 cores, by environment."""


class BenchGame:
    """One environment of the harness."""

    def __init__(self, name: str) -> None:
        self._env = bench_envs.make(name)

    def reset(self, seed: int) -> Observation:
        """Start an episode."""
        return Observation(self._env.reset(seed=seed)[0])

    def step(self, action: int) -> Outcome:
        """Take one step."""
        frame, reward, terminated, truncated, _ = self._env.step(action)
        return Outcome(Observation(frame), reward, terminated, truncated and not terminated)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def suite(config: EnvConfig) -> Suite:
    """Make a suite whose only level is the environment that `env.levels` names."""
    name = config.levels[0]
    actions = bench_envs.NUM_ACTIONS[name]
    return Suite(
        name=name,
        levels=(Level(name),),
        spaces=Spaces(bench_envs.SHAPE, "uint8", actions, 1, instructions=False),
        actions=tuple(str(a) for a in range(actions)),
        make_game=BenchGame,
        step_threads=16 if name == "doom" else 1,
    )


def main() -> None:
    """Train until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", choices=tuple(bench_envs.ENVS), default="synthetic")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    folder = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])  # for the actors
    sys.path.insert(0, folder)
    meter = Meter()

    def report(record: Mapping[str, float]) -> None:
        meter.total(int(record["agent_steps"]), lag=record.get("lag_mean"))

    with tempfile.TemporaryDirectory(prefix="impala-mi-bench-") as root:
        overrides = [
            *OVERRIDES,
            *BEST[arguments.env],
            f"env.levels=[{arguments.env}]",
            f"run.root={root}",
            *arguments.overrides,
        ]
        config = build("bench", {}, overrides)
        trainer.train(config, run_folder.create(config, "run"), None, report)


if __name__ == "__main__":
    main()
