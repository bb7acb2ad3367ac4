"""Act with a trained agent in a Gymnasium loop.

    python examples/act_in_gymnasium.py                        # trains CartPole for 90 s first
    python examples/act_in_gymnasium.py runs/RUN --episodes 5
    python examples/act_in_gymnasium.py runs/RUN --envs 8      # a batch of environments

RUN is a run of the suite gym, whose levels are Gymnasium ids.
"""

import argparse
from collections.abc import Sequence

import gymnasium
import numpy as np

import impala_mi


def one_environment(agent: impala_mi.TrainedAgent, env_id: str, episodes: int) -> list[float]:
    """Returns of episodes, one after another."""
    env, returns = gymnasium.make(env_id), []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        state = agent.initial_state()  # an episode starts: no memory, no previous action
        reward, total, done = 0.0, 0.0, False
        while not done:
            action, state = agent.step(observation, state, reward=reward, task=env_id, greedy=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return returns


def many_environments(agent: impala_mi.TrainedAgent, env_id: str, episodes: int, count: int) -> list[float]:
    """Returns of the first episodes that end in `count` environments that reset themselves."""
    mode = gymnasium.vector.AutoresetMode.SAME_STEP  # the observation after an end starts the next episode
    envs = gymnasium.make_vec(env_id, count, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    observations, _ = envs.reset(seed=0)
    state = agent.initial_state(count)
    rewards, first, totals, returns = np.zeros(count), np.ones(count, bool), np.zeros(count), []
    while len(returns) < episodes:
        actions, state = agent.step(observations, state, reward=rewards, first=first, task=env_id, greedy=True)
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        totals += rewards
        first = terminated | truncated
        returns += totals[first].tolist()
        totals[first] = 0
    envs.close()
    return returns[:episodes]


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Print and return the returns of episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="folder of a run of the suite gym; trains one if left out")
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--envs", type=int, default=1)
    options = parser.parse_args(arguments)
    run = options.run or impala_mi.train("cartpole", ["train.max_time_s=90"], report=show).run
    agent = impala_mi.load_agent(run)
    env_id = agent.levels[0]
    if options.envs == 1:
        returns = one_environment(agent, env_id, options.episodes)
    else:
        returns = many_environments(agent, env_id, options.episodes, options.envs)
    print(f"{env_id}, checkpoint {agent.checkpoint}: returns {returns}, mean {np.mean(returns):.1f}")
    return returns


def show(record: "dict[str, float]") -> None:
    """Print one record of training."""
    mean = record.get("level/CartPole-v1/return_mean", float("nan"))
    print(f"{record['time_s']:.0f} s, {record['env_frames']:,.0f} frames, mean return {mean:.1f}", flush=True)


if __name__ == "__main__":
    main()
