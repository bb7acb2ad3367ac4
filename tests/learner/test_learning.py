"""Learning in one process: a rollout worker and a learner in turns."""

import numpy as np
import pytest
import torch

from impala_mi.config import build
from impala_mi.envs.suites import make_suite
from impala_mi.learner.batching import stack
from impala_mi.learner.update import Learner
from tests.tiny import started


@pytest.mark.slow
@pytest.mark.parametrize(("name", "guessing", "learnt"), [("Match", 0.5, 0.95), ("Reach", -0.5, -0.25)])
def test_an_action_space_is_learnt(name, guessing, learnt):
    """Rewards are those of one-step episodes: random play is below `guessing`, training ends above `learnt`."""
    config = build(
        "test",
        {
            "env": {"suite": "gym", "levels": [f"tests.gym_envs:{name}-v0"]},
            "agent": {"torso": "mlp", "head": "shared", "core_width": 32},
            "actors": {"count": 1, "envs": 16},
            "learner": {
                "unroll_length": 8, "batch_size": 16, "optimizer": "adam", "epsilon": 1e-6, "learning_rate": 5e-3,
                "learning_rate_schedule": "constant", "loss_reduction": "mean", "reward_clipping": "none",
                "entropy_cost": 0.003, "discount": 0.0,
            },
        },
    )  # fmt: skip
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 1, torch.device("cpu"))
    rollout = started(config, suite, 0, [0])
    means = []
    for update in range(80):
        rollout.load(learner.weights(), update)
        batch = stack([rollout.collect().data])
        assert batch.action.shape == (8, 16, *suite.spaces.action_space.shape)
        assert np.isfinite(list(learner.update(batch).values())).all()
        means.append(batch.reward.mean().item())
    rollout.close()
    assert np.mean(means[:3]) < guessing
    assert np.mean(means[-10:]) > learnt


def scores_of_two_scales(normaliser: str) -> np.ndarray:
    """Mean reward of the last 20 of 150 updates on `ones` and `thousands` [2], each at most 1."""
    config = build(
        "test",
        {
            "env": {"suite": "tests.games:scaled"},
            "agent": {
                "torso": "mlp", "core": "feedforward", "head": "per_task", "core_width": 32,
                "value_normaliser": normaliser,
            },
            "actors": {"count": 1, "envs": 16},
            "learner": {
                "unroll_length": 8, "batch_size": 16, "optimizer": "adam", "epsilon": 1e-6, "learning_rate": 5e-3,
                "learning_rate_schedule": "constant", "loss_reduction": "mean", "reward_clipping": "none",
                "entropy_cost": 0.03, "discount": 0.0, "max_grad_norm": 1.0,
            },
        },
    )  # fmt: skip
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 1, torch.device("cpu"))
    rollout = started(config, suite, 0, [0])
    means = []
    for update in range(150):
        rollout.load(learner.weights(), update)
        batch = stack([rollout.collect().data])
        learner.update(batch)
        level = batch.inputs.level[:-1]
        means.append([batch.reward[level == k].mean().item() / scale for k, scale in enumerate((1, 1000))])
    rollout.close()
    return np.mean(means[-20:], 0)


@pytest.mark.slow
def test_levels_whose_rewards_differ_by_a_thousand_are_both_learnt_with_popart_alone():
    assert scores_of_two_scales("popart").min() > 0.95
    assert scores_of_two_scales("none").min() < 0.5
