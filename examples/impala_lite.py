"""IMPALA in one process: the algorithm without Ray, from the same parts as the full system.

Actors play with copies of the network that are refreshed only between unrolls, and their unrolls wait in a queue:
the learner is a few updates ahead of the policy that acted. V-trace corrects for that lag.

    python examples/impala_lite.py                                  # five tiny tasks at once, within a minute
    python examples/impala_lite.py --frames 20000 env.levels=[catch] learner.learning_rate=1e-3
"""

import argparse
import copy
import time
from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np
import torch

from impala_mi.config import Config, build
from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.learner.batching import stack
from impala_mi.learner.optim import Optimizer, make_optimizer
from impala_mi.learner.update import next_values
from impala_mi.losses import actor_critic_loss, loss_inputs
from impala_mi.nn.agent import Agent
from impala_mi.nn.precision import compute_with
from impala_mi.types import Episode, FinalObservations, Transitions, map_arrays, transitions_buffer

# Two of these tasks look exactly alike and want opposite actions; the head generates its weights from the task.
CONFIG = {
    "env": {"suite": "tiny", "levels": ["catch", "memory", "language", "always_left", "always_right"]},
    "agent": {"torso": "mlp", "head": "mi_task", "core_width": 64, "context_width": 16},
    "actors": {"count": 2, "envs": 10},
    "learner": {
        "unroll_length": 20,
        "batch_size": 20,  # an unroll of each environment of both actors
        "optimizer": "adam",
        "epsilon": 1e-6,
        "learning_rate": 2e-3,
        "max_grad_norm": 40.0,
        "entropy_cost": 0.01,
        "reward_clipping": "none",
    },
}
LAG = 2
"""Batches that wait between actors and learner: the age in updates of the weights that acted."""


class Actor:
    """E environments, each of one level, played by a copy of the agent."""

    def __init__(self, config: Config, suite: Suite, index: int) -> None:
        envs, tokens = config.actors.envs, config.agent.instruction_tokens
        levels = [(index * envs + e) % len(suite.levels) for e in range(envs)]
        self.agent = Agent(config.agent, suite.spaces).eval()
        self.envs = VectorEnv(suite, levels, suite.assign_seeds([config.seed, index], levels), tokens)
        self.generator = torch.Generator().manual_seed(index)
        self.state = self.agent.initial_state(envs)
        self.buffer = transitions_buffer(suite.spaces, config.learner.unroll_length, envs, tokens, self.state)
        self.envs.reset(map_arrays(self.buffer.inputs, lambda array: array[-1]))

    def unroll(self, weights: dict[str, torch.Tensor]) -> tuple[Transitions, list[Episode]]:
        """Play T steps with these weights; returns them, time first, and the episodes that ended."""
        self.agent.load_state_dict(weights)
        buffer, episodes, finals = self.buffer, [], []
        for array in buffer.inputs:
            array[0] = array[-1]  # row T of the last unroll is row 0 of this one: no transition is lost
        before = map_arrays(self.state, lambda tensor: tensor.numpy())
        for t in range(len(buffer.action)):
            now, following = (map_arrays(buffer.inputs, lambda array, i=i: array[i]) for i in (t, t + 1))
            action, logits, _, self.state = self.agent.act(now, self.state, self.generator)
            buffer.action[t], buffer.logits[t] = action.numpy(), logits.numpy()  # V-trace needs both
            result = self.envs.step(buffer.action[t], following)
            buffer.reward[t] = result.reward
            buffer.terminated[t], buffer.truncated[t] = result.terminated, result.truncated
            episodes += [episode for _, episode in result.episodes]
            finals += [(t, e, observation) for e, observation in result.final_observations]
        played = map_arrays(buffer._replace(state=()), np.copy)
        if finals:  # of truncated episodes, whose value stands for the steps that were cut off
            played = played._replace(
                final_observations=FinalObservations(
                    time=np.array([t for t, _, _ in finals]),
                    column=np.array([e for _, e, _ in finals]),
                    frame=np.stack([o.frame for _, _, o in finals]),
                    tokens=np.stack([self.envs.tokens(o.instruction) for _, _, o in finals]),
                )
            )
        return played._replace(state=before), episodes


def learn(agent: Agent, optimizer: Optimizer, config: Config, batch: Transitions) -> dict[str, float]:
    """One update from a batch [T+1, B, ...]; returns the scalars of the loss."""
    out = agent(batch.inputs, batch.state)  # row T is the bootstrap value
    targets = loss_inputs(
        config.learner,
        batch,
        policy=agent.distribution(out.logits[:-1]),
        behaviour=agent.distribution(batch.logits),
        values=out.value[:-1],
        normalised_values=out.normalised_value[:-1],
        next_values=next_values(agent, out, batch),
        core=out.core[:-1],
        normaliser=agent.normaliser,
    )  # V-trace targets and advantages: impala_mi/losses/vtrace.py
    loss = actor_critic_loss(targets)
    optimizer.zero_grad()
    loss.total.backward()
    gradient = optimizer.gradient()
    norm = torch.linalg.vector_norm(gradient)
    optimizer.step(gradient * (config.learner.max_grad_norm / norm).clamp(max=1), config.learner.learning_rate)
    statistics = agent.normaliser.statistics(targets.targets.vs, targets.level)
    agent.normaliser.update(statistics, agent.head.value, norm.isfinite())  # such as PopArt
    return {name: scalar.item() for name, scalar in loss.scalars.items()}


def train(config: Config, frames: int) -> dict[str, float]:
    """Train on about `frames` steps; returns the mean return of each level's last 50 episodes."""
    torch.manual_seed(config.seed)
    suite = make_suite(config.env)
    agent = Agent(config.agent, suite.spaces)
    optimizer = make_optimizer(config.learner, agent.parameters())
    actors = [Actor(config, suite, index) for index in range(config.actors.count)]
    queue: deque[Transitions] = deque()
    returns: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=50))
    start, updates, scalars = time.perf_counter(), 0, {}
    while updates * config.steps_per_update < frames:
        for actor in actors:
            unroll, episodes = actor.unroll(agent.state_dict())
            queue.append(unroll)
            for episode in episodes:
                returns[suite.levels[episode.level].name].append(episode.return_)
        if len(queue) <= LAG * config.rollouts_per_batch:
            continue
        scalars = learn(agent, optimizer, config, stack([queue.popleft() for _ in actors]))
        updates += 1
        if updates % 50 == 0:
            means = "  ".join(f"{name} {np.mean(values):.2f}" for name, values in sorted(returns.items()))
            speed = updates * config.steps_per_update / (time.perf_counter() - start)
            print(f"{updates * config.steps_per_update:,} frames, {speed:,.0f}/s  {means}", flush=True)
    print("  ".join(f"{name} {value:.3f}" for name, value in scalars.items()))
    for actor in actors:
        actor.envs.close()
    return {name: float(np.mean(values)) for name, values in returns.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train as the command line says; see `train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=80_000, help="agent steps to learn from")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ from CONFIG")
    options = parser.parse_intermixed_args(arguments)
    compute_with(1)
    return train(build("lite", copy.deepcopy(CONFIG), options.overrides), options.frames)


if __name__ == "__main__":
    main()
