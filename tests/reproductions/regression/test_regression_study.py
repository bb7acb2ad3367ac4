"""Tasks, stacks of repetitions, and the whole study in miniature."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from impala_mi.errors import UserError
from impala_mi.reproductions import study as study_module
from impala_mi.reproductions.regression import regression_study
from impala_mi.reproductions.regression.regression_report import log_errors
from impala_mi.reproductions.regression.regression_study import (
    PAPER,
    RegressionProtocol,
    run_study,
    stack_part,
    task_values,
)
from impala_mi.reproductions.regression.task_models import MODELS
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import write_study_report
from tests.reproductions.study_states import saved_state

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}
SMALL = RegressionProtocol(tasks=(2, 4), steps=4, repetitions=3)


def test_the_papers_protocol() -> None:
    assert RegressionProtocol(tasks=(20, 40, 60), steps=10_000, repetitions=60) == PAPER
    assert (regression_study.BATCH, regression_study.RATE) == (50, 3e-3)


@pytest.mark.slow
def test_the_whole_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression_study, "POINTS", 4)
    monkeypatch.setattr(regression_study, "ROWS", 8)  # stacks of several sizes
    monkeypatch.setattr(regression_study, "QUICK", SMALL)
    shares: list[float] = []
    own = Study("regression", tmp_path, SETTINGS, lambda share, description: shares.append(share))
    report = run_study(own)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert len(report.tables[0].rows) == len(SMALL.tasks) * len(MODELS)
    files = write_study_report(own, report, "impala-mi reproduce regression")
    assert [f.name for f in files] == ["figure3.png", "kinds.png", "results.md", "results.json"]
    assert len(report.data["curves"]["4"]["conditional MI"]["sine"]["final"]) == 3
    del own  # and the lock with it; PyTorch's first optimiser keeps the frames that made it for a while
    gc.collect()
    monkeypatch.setattr(regression_study, "train_stack", None)  # nothing is trained again
    assert run_study(Study("regression", tmp_path, SETTINGS)).verdict == report.verdict
    monkeypatch.setattr(regression_study, "QUICK", replace(SMALL, steps=8))
    with pytest.raises(UserError, match="steps=4, not 8"):
        run_study(Study("regression", tmp_path, SETTINGS))


def test_half_of_the_tasks_are_sines() -> None:
    x, (a, b) = torch.randn(3, 4, 5), torch.rand(2, 3, 4, 1)
    y = task_values(x, a, b)
    for task in range(4):
        of_x = x[:, task] if task < 2 else torch.sin(10 * x[:, task])
        torch.testing.assert_close(y[:, task], a[:, task] * of_x + b[:, task])


@pytest.mark.slow
def test_an_interrupted_stack_continues_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(regression_study, "POINTS", 10)

    def interrupt(share: float, description: str) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    whole = stack_part(Study("n", tmp_path / "a", SETTINGS), 4, range(1, 3), 30, 0.0, 1.0)
    own = Study("n", tmp_path / "b", SETTINGS, interrupt)
    with pytest.raises(KeyboardInterrupt):
        stack_part(own, 4, range(1, 3), 30, 0.0, 1.0)
    state = saved_state(own, "tasks4-repetitions1-2")
    assert state is not None
    assert state["point"] == 5
    own.progress = lambda share, description: None
    assert np.array_equal(stack_part(own, 4, range(1, 3), 30, 0.0, 1.0), whole)
    assert whole.shape == (3, 10, 2, 2)
    assert (whole > 0).all()


@pytest.mark.slow
def test_models_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression_study, "POINTS", 10)
    curve = stack_part(Study("n", tmp_path, SETTINGS), 4, range(1), 120, 0.0, 1.0)
    first, last = log_errors(curve)[:, 0].mean(1), log_errors(curve)[:, -1].mean(1)  # [models, 3]
    assert (last[:, 1] < first[:, 1] - 0.5).all()  # affine functions
    assert (last[:, 0] < first[:, 0]).all()
