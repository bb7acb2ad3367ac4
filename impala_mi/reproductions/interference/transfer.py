"""A new task for a trained agent: the weights grow by what the task needs, and training goes on with all tasks."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from impala_mi.config import Config
from impala_mi.envs.suites import make_suite
from impala_mi.nn.agent import Agent
from impala_mi.reproductions.interference.in_process import train_in_process

WINDOWS = 5
"""Points of the learning curves after the new task has come."""


def train_and_transfer(before: Config, after: Config) -> dict[str, Any]:
    """Train an agent, add tasks, and train on with all of them.

    Args:
        before: configuration of the first training.
        after: the same with one more task, and the frames of the second training.

    Returns:
        frames of the second training at the end of each window, and in each window `new`, the normalised score of
        the new task, and `old`, the mean of the others.
    """
    trained: dict[str, Tensor] = {}
    train_in_process(
        before, make_suite(before.env), 1, lambda learner, _: trained.update(learner.agent.state_dict())
    )
    curve = train_in_process(
        after, make_suite(after.env), WINDOWS, lambda learner, batch: None, partial(grow, trained)
    )
    old = [sum(scores[:-1]) / len(scores[:-1]) for scores in curve.scores]
    return {"frames": curve.frames, "new": [scores[-1] for scores in curve.scores], "old": old}


def grow(trained: Mapping[str, Tensor], agent: Agent) -> None:
    """Copy trained weights into an agent with at least as many levels; weights of new levels stay as they are.

    Weights of a level lie along one axis in the order of the levels, so that the trained ones are the first block.

    Raises:
        RuntimeError: the agents differ in more than the number of levels.
    """
    weights = agent.state_dict()
    if weights.keys() != trained.keys():
        raise RuntimeError(f"weights of one agent alone: {sorted(weights.keys() ^ trained.keys())}")
    for name, value in weights.items():
        block = value
        for axis, size in enumerate(trained[name].shape):
            block = block.narrow(axis, 0, size)
        block.copy_(trained[name])
