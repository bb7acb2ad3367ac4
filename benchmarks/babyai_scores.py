"""Benchmark run by hand: reference scores of BabyAI, from its own bot, which knows the whole map.

python benchmarks/babyai_scores.py [EPISODES]
"""

import sys

import numpy as np
from minigrid.utils.baby_ai_bot import BabyAIBot

from impala_mi.config import EnvConfig
from impala_mi.envs.babyai import BabyAIGame, babyai


def episode(game: BabyAIGame, seed: int) -> float:
    """Return of the bot in one episode; 0 if it gives up."""
    game.reset(seed)
    bot = BabyAIBot(game.env)
    action = None
    while True:
        try:
            action = bot.replan(action)
        except Exception:  # failed assertions are how the bot gives up
            return 0.0
        outcome = game.step(int(action))
        if outcome.terminated or outcome.truncated:
            return outcome.reward


def main() -> None:
    """Print mean and standard error of each level."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for level in babyai(EnvConfig(suite="babyai")).level_names:
        game = BabyAIGame(level)
        returns = np.array([episode(game, seed) for seed in range(episodes)])
        game.close()
        print(f"{level:20} {returns.mean():.3f} +- {returns.std() / len(returns) ** 0.5:.3f}", flush=True)


if __name__ == "__main__":
    main()
