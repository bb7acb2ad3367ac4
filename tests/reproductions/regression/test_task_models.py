"""Models of figure 3, compared with appendix D's formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from impala_mi.reproductions.regression.task_models import MODELS, ConditionalMI, ConditionalMLP, Multiheaded


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
    expected = written_out(model, x.reshape(-1, 1), z).view(tasks, samples)
    torch.testing.assert_close(model(x), expected)


def test_parameter_counts() -> None:
    """Layers as written in appendix D, for 20 tasks."""
    counted = {name: sum(p.numel() for p in make(20).parameters()) for name, make in MODELS.items()}
    assert counted == {
        "conditional MLP": (20 + 1) * 20 + (21 + 1) * 30 + (30 + 1) * 20 + (20 + 1) * 1,
        "multiheaded MLP": (1 + 1) * 20 + (20 + 1) * 30 + 20 * (30 + 1),
        "conditional MI": (20 + 1) * 20 + (1 + 1) * 30 + (30 + 1) * 20 + 20 * 20 + 20 + 20 + 1,
    }
