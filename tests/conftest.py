"""Shapes in annotations are checked while tests run."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a run: threads that wait do not take a core

from jaxtyping import install_import_hook

_hook = install_import_hook(["impala_mi.nn", "impala_mi.losses", "impala_mi.learner.update"], "beartype.beartype")

from collections.abc import Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from impala_mi.actors.rollout import RolloutWorker
from impala_mi.config import Config, build
from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite

hypothesis.settings.register_profile("shared machines", deadline=None)
hypothesis.settings.load_profile("shared machines")

DOUBLES = Path(__file__).parent / "doubles"
"""Holds a look-alike of deepmind_lab."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: they take longest, and others fill the gaps."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture
def lab_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """`deepmind_lab` is found, here and in processes that are started."""
    monkeypatch.syspath_prepend(str(DOUBLES))


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


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


@pytest.fixture
def config() -> Config:
    return tiny_config()


@pytest.fixture
def suite(config: Config) -> Suite:
    return make_suite(config.env)


def started(config: Config, suite: Suite, actor: int, seed_epoch: Sequence[int]) -> RolloutWorker:
    """A rollout whose environments have started."""
    rollout = RolloutWorker(config, suite, actor)
    rollout.start(seed_epoch)
    return rollout
