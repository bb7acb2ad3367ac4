"""Shapes in annotations are checked while tests run."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a run: threads that wait do not take a core

from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Prepare a process that runs tests; one that only hands them to xdist workers needs no libraries."""
    if config.getoption("numprocesses", None):
        return
    import hypothesis
    from jaxtyping import install_import_hook

    install_import_hook(["impala_mi.nn", "impala_mi.losses", "impala_mi.learner.update"], "beartype.beartype")
    hypothesis.settings.register_profile("shared machines", deadline=None)
    hypothesis.settings.load_profile("shared machines")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: they take longest, and others fill the gaps."""
    items.sort(key=lambda item: item.get_closest_marker("integration") is None)


@pytest.fixture
def lab_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """`deepmind_lab` is found, here and in processes that are started."""
    from tests.tiny import DOUBLES

    monkeypatch.syspath_prepend(str(DOUBLES))


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(False)  # set by commands that ran in this process; hypothesis tries such numbers
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def config() -> Any:
    """`tiny_config()`."""
    from tests.tiny import tiny_config

    return tiny_config()


@pytest.fixture
def suite(config: Any) -> Any:
    """Suite of `config`."""
    from impala_mi.envs.suites import make_suite

    return make_suite(config.env)
