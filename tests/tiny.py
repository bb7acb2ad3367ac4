"""A configuration that is small and quick, and where the look-alike of DeepMind Lab lies."""

from collections.abc import Sequence
from pathlib import Path

from impala_mi.actors.rollout import RolloutWorker
from impala_mi.config import Config, build
from impala_mi.envs.base import Suite

DOUBLES = Path(__file__).parent / "doubles"
"""Holds a look-alike of deepmind_lab."""


def tiny_config(*overrides: str) -> Config:
    """Small and quick: five levels in words and 5x5 images."""
    return build(
        "test",
        {
            "env": {"suite": "tiny"},
            "agent": {"torso": "mlp", "head": "mi_context", "core_width": 32, "context_width": 8},
            "actors": {"count": 1, "envs": 5},
            "learner": {"unroll_length": 7, "batch_size": 5, "optimizer": "adam", "epsilon": 1e-6},
        },
        overrides,
    )


def started(config: Config, suite: Suite, actor: int, seed_epoch: Sequence[int]) -> RolloutWorker:
    """A rollout whose environments have started."""
    rollout = RolloutWorker(config, suite, actor)
    rollout.start(seed_epoch)
    return rollout
