"""Figure 3: the models as appendix D writes them, the tasks, the stacks."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from impala_mi.errors import UserError
from impala_mi.experiments import regression, study
from impala_mi.experiments.findings import write
from impala_mi.experiments.regression import (
    MODELS,
    OTHERS,
    PAPER,
    ConditionalMI,
    ConditionalMLP,
    Lead,
    Mean,
    Multiheaded,
    Protocol,
    _done_or_trained,
    lead,
    logs,
    mean_of,
    run,
    values,
    verdict,
)
from impala_mi.experiments.study import Study

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}
SMALL = Protocol(tasks=(2, 4), steps=10, repetitions=3)


def written_out(model: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """Appendix D, sample by sample: x [N, 1] and one-hot z [N, T] to [N]."""
    relu = torch.relu
    if isinstance(model, ConditionalMLP):
        h = relu(model.first(torch.cat([x, model.context(z)], -1)))
        return model.last(relu(model.second(h))).squeeze(-1)
    if isinstance(model, ConditionalMI):
        h = relu(model.second(relu(model.first(x))))
        return model.output(h, model.context(z)).squeeze(-1)
    assert isinstance(model, Multiheaded)
    h = relu(model.second(relu(model.first(x))))
    return (model.heads(h) * z).sum(-1)


@pytest.mark.parametrize("name", MODELS)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**16))
@settings(max_examples=25)
def test_models_are_those_of_appendix_d(name: str, tasks: int, samples: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = MODELS[name](tasks).double()
    for p in model.parameters():
        nn.init.normal_(p)
    x = torch.randn(tasks, samples, dtype=torch.float64)
    z = torch.eye(tasks, dtype=torch.float64).repeat_interleave(samples, 0)
    want = written_out(model, x.reshape(-1, 1), z).view(tasks, samples)
    torch.testing.assert_close(model(x), want)


def test_parameter_counts() -> None:
    """Layers as written in appendix D, for 20 tasks."""
    counted = {name: sum(p.numel() for p in make(20).parameters()) for name, make in MODELS.items()}
    assert counted == {
        "conditional MLP": (20 + 1) * 20 + (21 + 1) * 30 + (30 + 1) * 20 + (20 + 1) * 1,
        "multiheaded MLP": (1 + 1) * 20 + (20 + 1) * 30 + 20 * (30 + 1),
        "conditional MI": (20 + 1) * 20 + (1 + 1) * 30 + (30 + 1) * 20 + 20 * 20 + 20 + 20 + 1,
    }


def test_the_papers_protocol() -> None:
    assert Protocol(tasks=(20, 40, 60), steps=10_000, repetitions=60) == PAPER
    assert (regression.BATCH, regression.RATE) == (50, 3e-3)


def test_half_of_the_tasks_are_sines() -> None:
    x, (a, b) = torch.randn(3, 4, 5), torch.rand(2, 3, 4, 1)
    y = values(x, a, b)
    for task in range(4):
        of_x = x[:, task] if task < 2 else torch.sin(10 * x[:, task])
        torch.testing.assert_close(y[:, task], a[:, task] * of_x + b[:, task])


def test_an_interrupted_stack_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(regression, "POINTS", 10)

    def interrupt(share: float, what: str) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    whole = _done_or_trained(Study("n", tmp_path / "a", SETTINGS), 4, range(1, 3), 30, 0.0, 1.0)
    own = Study("n", tmp_path / "b", SETTINGS, interrupt)
    with pytest.raises(KeyboardInterrupt):
        _done_or_trained(own, 4, range(1, 3), 30, 0.0, 1.0)
    state = own.saved("tasks4-repetitions1-2")
    assert state is not None
    assert state["point"] == 5
    own.progress = lambda share, what: None
    assert np.array_equal(_done_or_trained(own, 4, range(1, 3), 30, 0.0, 1.0), whole)
    assert whole.shape == (3, 10, 2, 2)
    assert (whole > 0).all()


def test_models_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "POINTS", 10)
    curve = _done_or_trained(Study("n", tmp_path, SETTINGS), 4, range(1), 200, 0.0, 1.0)
    first, last = logs(curve)[:, 0].mean(1), logs(curve)[:, -1].mean(1)  # [models, 3]
    assert (last[:, 1] < first[:, 1] - 0.5).all()  # affine functions
    assert (last[:, 0] < first[:, 0]).all()


def test_logarithms_are_of_all_tasks_and_of_each_kind() -> None:
    curve = np.array([0.01, 0.1]).reshape(1, 1, 1, 2)
    np.testing.assert_allclose(logs(curve).ravel(), [np.log10(0.055), -2.0, -1.0])
    found = mean_of(np.array([1.0, 2.0, 6.0]))
    assert found.mean == 3.0
    assert found.error == pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3))


def test_leads_are_of_pairs() -> None:
    ours, luck = np.zeros((4, 3)), np.array([0.0, 5.0, -5.0])
    other = ours + luck + np.array([[2.0], [2.0], [2.0], [1.0]])
    found = lead(other, ours + luck)
    assert (found.end.mean, found.end.error) == (1.0, 0.0)
    assert found.throughout.mean == 1.75


def test_verdicts() -> None:
    def leads(*means: float, error: float = 0.1) -> dict[int, dict[str, Lead]]:
        found = {t: Mean(m, error, 60) for t, m in zip((20, 40, 60), means, strict=True)}
        return {t: dict.fromkeys(OTHERS, Lead(m, m)) for t, m in found.items()}

    assert verdict(leads(1.0, 1.5, 2.0)).startswith("held, 14 of 14")
    assert verdict(leads(1.0, 1.0, 1.1)).startswith("held in part, 12 of 14")  # no growth that is sure
    assert verdict(leads(-0.1, 0.1, 0.0)).startswith("did not hold")
    assert verdict(leads(1.0, 1.5, 2.0, error=3.0)).startswith("did not hold")


def test_the_whole_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "POINTS", 5)
    monkeypatch.setattr(regression, "ROWS", 8)  # stacks of several sizes
    monkeypatch.setattr(regression, "QUICK", SMALL)
    shares: list[float] = []
    own = Study("regression", tmp_path, SETTINGS, lambda share, what: shares.append(share))
    found = run(own)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert len(found.tables[0].rows) == len(SMALL.tasks) * len(MODELS)
    files = write(own, found, "impala-mi reproduce regression")
    assert [f.name for f in files] == ["figure3.png", "kinds.png", "results.md", "results.json"]
    assert len(found.data["curves"]["4"]["conditional MI"]["sine"]["final"]) == 3
    del own  # and the lock with it; PyTorch's first optimiser keeps the frames that made it for a while
    gc.collect()
    monkeypatch.setattr(regression, "train", None)  # nothing is trained again
    assert run(Study("regression", tmp_path, SETTINGS)).verdict == found.verdict
    monkeypatch.setattr(regression, "QUICK", replace(SMALL, steps=20))
    with pytest.raises(UserError, match="steps=10, not 20"):
        run(Study("regression", tmp_path, SETTINGS))
