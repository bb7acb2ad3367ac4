"""The tasks, and stacks of repetitions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from impala_mi.reproductions import study
from impala_mi.reproductions.regression import training
from impala_mi.reproductions.regression.comparison import logs
from impala_mi.reproductions.regression.experiment import _done_or_trained
from impala_mi.reproductions.regression.training import values
from impala_mi.reproductions.study import Study
from tests.reproductions.states import saved

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}


def test_half_of_the_tasks_are_sines() -> None:
    x, (a, b) = torch.randn(3, 4, 5), torch.rand(2, 3, 4, 1)
    y = values(x, a, b)
    for task in range(4):
        of_x = x[:, task] if task < 2 else torch.sin(10 * x[:, task])
        torch.testing.assert_close(y[:, task], a[:, task] * of_x + b[:, task])


def test_an_interrupted_stack_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(training, "POINTS", 10)

    def interrupt(share: float, what: str) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    whole = _done_or_trained(Study("n", tmp_path / "a", SETTINGS), 4, range(1, 3), 30, 0.0, 1.0)
    own = Study("n", tmp_path / "b", SETTINGS, interrupt)
    with pytest.raises(KeyboardInterrupt):
        _done_or_trained(own, 4, range(1, 3), 30, 0.0, 1.0)
    state = saved(own, "tasks4-repetitions1-2")
    assert state is not None
    assert state["point"] == 5
    own.progress = lambda share, what: None
    assert np.array_equal(_done_or_trained(own, 4, range(1, 3), 30, 0.0, 1.0), whole)
    assert whole.shape == (3, 10, 2, 2)
    assert (whole > 0).all()


def test_models_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "POINTS", 10)
    curve = _done_or_trained(Study("n", tmp_path, SETTINGS), 4, range(1), 200, 0.0, 1.0)
    first, last = logs(curve)[:, 0].mean(1), logs(curve)[:, -1].mean(1)  # [models, 3]
    assert (last[:, 1] < first[:, 1] - 0.5).all()  # affine functions
    assert (last[:, 0] < first[:, 0]).all()
