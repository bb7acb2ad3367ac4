"""Training in one process: actors and learner take turns, so that a run repeats bit for bit and needs no Ray."""

import copy
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from impala_mi.actors.rollout import FIRST_SEED_EPOCH, RolloutWorker
from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.envs.scores import normalised
from impala_mi.learner.batching import stack, to_device
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import Agent
from impala_mi.types import Rollout, Transitions

LAG = 2
"""Batches between the policy that acts and the learner's: the lag in updates of a run on Ray."""


@dataclass(frozen=True)
class LearningCurve:
    """Normalised scores of the levels in equal windows of a run."""

    frames: list[int]
    """Env frames at the end of each window."""
    scores: list[list[float]]
    """Scores of the levels in each window, from its episodes: 0 is random, 100 the reference."""


def train_in_process(
    config: Config,
    suite: Suite,
    windows: int,
    on_window: Callable[[Learner, Transitions], None],
    initialise: Callable[[Agent], None] = lambda agent: None,
) -> LearningCurve:
    """Train for `train.env_frames`, and call `on_window` with the learner and its last batch after each window.

    `initialise` may change the learner's agent before it starts.

    Raises `ValueError` if a level ends no episode in a window, and what the levels and the learner raise.
    """
    learner = Learner(config, suite.spaces, suite.action_repeat, torch.device("cpu"))
    initialise(learner.agent)
    workers = [RolloutWorker(config, suite, i) for i in range(config.actors.number(len(suite.levels)))]
    queue: deque[Rollout] = deque()
    returns: dict[int, list[float]] = defaultdict(list)
    curve = LearningCurve([], [])
    try:
        for worker in workers:
            worker.start(FIRST_SEED_EPOCH)
        while learner.counters.env_frames < config.train.env_frames:
            weights, version = learner.weights(), learner.counters.version
            for worker in workers:
                worker.load(weights, version)
                queue.append(copy.deepcopy(worker.collect()))  # the worker uses its arrays again
            if len(queue) <= LAG * config.rollouts_per_batch:
                continue
            batch = [queue.popleft() for _ in range(config.rollouts_per_batch)]
            for rollout in batch:
                for episode in rollout.info.episodes:
                    returns[episode.level].append(episode.return_)
            stacked = to_device(stack([rollout.data for rollout in batch]), learner.device)
            learner.update(stacked)
            frames = learner.counters.env_frames
            if frames * windows >= config.train.env_frames * (len(curve.frames) + 1):
                if len(returns) < len(suite.levels):
                    raise ValueError(
                        f"train.env_frames={config.train.env_frames}: a window without episodes of a level"
                    )
                scores = [normalised(suite.levels[k], float(np.mean(returns[k]))) for k in range(len(suite.levels))]
                curve.frames.append(frames)
                curve.scores.append([float(score) for score in scores if score is not None])
                returns.clear()
                on_window(learner, stacked)
    finally:
        for worker in workers:
            worker.close()
    return curve
