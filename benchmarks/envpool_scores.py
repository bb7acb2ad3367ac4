"""Benchmark run by hand: random scores of EnvPool's levels, in whole batches.

python benchmarks/envpool_scores.py [EPISODES] LEVEL_OR_LIST ...

`impala-mi levels envpool 'env.levels=[...]' --measure-random N` measures the same with a new pool for each episode.
"""

import sys

import numpy as np

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.types import AgentInput, transitions_buffer

GAMES = 50
"""Games of a level that play together; each plays the same number of episodes to their end, so none is favoured."""


def random_returns(suite: Suite, level: int, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of at least `episodes` episodes of uniformly random actions."""
    levels, each = [level] * GAMES, -(-episodes // GAMES)
    out = AgentInput(*(a[0] for a in transitions_buffer(suite.spaces, 1, GAMES, 0).inputs))
    vector = VectorEnv(suite, levels, suite.assign_seeds([1, 0, 0, 0], levels), 0)
    rng, space = np.random.default_rng(level), suite.spaces.action_space
    returns: list[list[float]] = [[] for _ in levels]
    lengths: list[int] = []
    active = np.ones(GAMES, bool)
    try:
        vector.reset(out)
        while active.any():
            for e, episode in vector.step(space.random(rng, GAMES), out, active).episodes:
                returns[e].append(episode.return_)
                lengths.append(episode.length)
                active[e] = len(returns[e]) < each
    finally:
        vector.close()
    return np.concatenate(returns), np.array(lengths)


def main() -> None:
    """Print mean and standard error of each level."""
    first, *names = sys.argv[1:]
    episodes, names = (int(first), names) if first.isdigit() else (1000, [first, *names])
    suite = make_suite(EnvConfig(suite="envpool", levels=names))
    for k, level in enumerate(suite.levels):
        returns, lengths = random_returns(suite, k, episodes)
        error, played = (
            returns.std() / len(returns) ** 0.5,
            f"{len(returns)} episodes of {lengths.mean():.0f} steps",
        )
        print(f"{level.name:36} {returns.mean():.4f} +- {error:.4f} ({played})", flush=True)


if __name__ == "__main__":
    main()
