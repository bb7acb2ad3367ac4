"""Benchmark run by hand: reference scores of BabyAI, from its own bot, which knows the whole map.

python benchmarks/babyai_scores.py [EPISODES]
"""

import contextlib
import sys

import gymnasium
import minigrid  # noqa: F401  registers the environment ids
import numpy as np
from minigrid.utils.baby_ai_bot import BabyAIBot

from impala_mi.envs.envpool_levels import LISTS


def episode(env: gymnasium.Env, seed: int) -> float:
    """Return of the bot in one episode; 0 if it gives up."""
    with contextlib.redirect_stdout(None):  # MiniGrid prints the maps that it rejects
        env.reset(seed=seed)
    bot = BabyAIBot(env)
    action = None
    while True:
        try:
            action = bot.replan(action)
        except Exception:  # failed assertions are how the bot gives up
            return 0.0
        _, reward, terminated, truncated, _ = env.step(int(action))
        if terminated or truncated:
            return float(reward)


def main() -> None:
    """Print mean and standard error of each level; the suite `babyai` has twelve of them."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for level in LISTS["babyai40"]:
        env = gymnasium.make(level)
        returns = np.array([episode(env, seed) for seed in range(episodes)])
        env.close()
        print(f"{level:30} {returns.mean():.3f} +- {returns.std() / len(returns) ** 0.5:.3f}", flush=True)


if __name__ == "__main__":
    main()
