"""A suite of your own: two levels of a corridor, of which each asks for the other end.

    python examples/own_suite.py                              # checks the levels, trains for 20 s, scores

`env.suite=own_suite:corridor` names the function below; its module must lie in the current folder, beside the
program, or in an installed package, so that the actors' processes can import it.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from impala_mi import EnvConfig, Game, Level, Observation, Outcome, Spaces, Suite, check_game, evaluate, train

LENGTH = 7
"""Cells of the corridor; an episode starts in the middle."""
TIME_LIMIT = 20
"""Steps after which an episode is cut off."""


class Corridor(Game):
    """Walk to the end that the level is named for: +1 there, -1 at the other end.

    A game that holds processes or files also has a method `close`.
    """

    def __init__(self, level: str) -> None:
        self.goal = {"to_the_left": 0, "to_the_right": LENGTH - 1}[level]

    def reset(self, seed: int) -> Observation:
        """Start an episode: the same seed must give the same one."""
        rng = np.random.default_rng(seed)
        self.cell, self.time = LENGTH // 2 + int(rng.integers(-1, 2)), 0
        return self.observation()

    def step(self, action: int) -> Outcome:
        """Move to the left (0) or to the right (1)."""
        self.cell, self.time = self.cell + (1 if action else -1), self.time + 1
        if self.cell in (0, LENGTH - 1):
            return Outcome(self.observation(), 1.0 if self.cell == self.goal else -1.0, terminated=True)
        return Outcome(self.observation(), 0.0, truncated=self.time == TIME_LIMIT)

    def observation(self) -> Observation:
        """One-hot cell; the levels look alike, so only the task tells which end is wanted."""
        return Observation(np.eye(LENGTH, dtype=np.float32)[self.cell])


def corridor(config: EnvConfig) -> Suite:
    """The suite: what `env.suite` names. Scores are normalised by a random player (0) and the best return (100)."""
    levels = tuple(Level(name, 0.0, 1.0, "best possible") for name in ("to_the_left", "to_the_right"))
    return Suite(
        name="corridor",
        levels=levels,
        spaces=Spaces((LENGTH,), "float32", num_actions=2, num_levels=len(levels), instructions=False),
        actions=("left", "right"),
        make_game=Corridor,
    )


CONFIG = {
    "env": {"suite": "own_suite:corridor"},
    "agent": {"torso": "mlp", "head": "mi_task", "core_width": 32, "context_width": 8},
    "actors": {"count": 1, "envs": 8},
    "learner": {
        "unroll_length": 20,
        "batch_size": 8,
        "optimizer": "adam",
        "epsilon": 1e-6,
        "learning_rate": 2e-3,
        "entropy_cost": 0.01,
    },
    "train": {"max_time_s": 20.0, "log_every_s": 5.0},
}


def main(overrides: Sequence[str]) -> None:
    """Check the levels, train on both at once, and score the agent."""
    suite = corridor(EnvConfig())
    for level in suite.level_names:
        check_game(suite, level)
    result = train(CONFIG, overrides)
    print(f"{result.status}: {result.counters.env_frames:,} frames, {result.run}")
    for row in evaluate(result.run, episodes=20).levels:
        print(f"{row.level}: mean return {row.agent.mean:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    main(parser.parse_args().overrides)
