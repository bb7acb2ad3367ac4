import numpy as np
import pytest
import torch

from impala_mi.config import LearnerConfig
from impala_mi.learner.optim import RMSPropTF, learning_rate, make_optimizer


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_tensorflows(momentum):
    """Slot starting at 1, epsilon inside the root; by hand in NumPy."""
    rng = np.random.default_rng(0)
    p = torch.nn.Parameter(torch.tensor(rng.normal(size=5)))
    want, ms, mom = p.detach().numpy().copy(), np.ones(5), np.zeros(5)
    optimizer = RMSPropTF([p], lr=0.1, decay=0.9, momentum=momentum, eps=0.1)
    for _ in range(20):
        g = rng.normal(size=5)
        p.grad = torch.tensor(g)
        optimizer.step()
        ms = 0.9 * ms + 0.1 * g * g
        mom = momentum * mom + 0.1 * g / np.sqrt(ms + 0.1)
        want -= mom
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-12)


def test_first_step_is_not_pytorchs():
    """PyTorch's own starts at 0 with epsilon outside: its first step is some ten times longer."""
    steps = []
    for make in (
        lambda p: RMSPropTF([p], 1.0, 0.99, 0.0, 1e-8),
        lambda p: torch.optim.RMSprop([p], 1.0, 0.99, 1e-8),
    ):
        p = torch.nn.Parameter(torch.zeros(1))
        p.grad = torch.ones(1)
        make(p).step()
        steps.append(-p.item())
    assert steps == pytest.approx([1.0, 10.0], rel=1e-3)


def test_momentum_can_be_switched_on_later():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = RMSPropTF([p], 0.1)
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.9
    before = p.detach().clone()
    optimizer.step()
    assert (p < before).all()


def test_parameters_without_gradient_stay():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    p.grad = torch.ones(2)
    RMSPropTF([p, q], 0.1).step()
    assert (p < 1).all()
    assert (q == 1).all()


def test_learning_rate_falls_to_zero():
    config = LearnerConfig(learning_rate=0.5)
    assert [learning_rate(config, f, 100) for f in (0, 50, 100, 120)] == [0.5, 0.25, 0.0, 0.0]
    assert learning_rate(LearnerConfig(learning_rate=0.5, learning_rate_schedule="constant"), 99, 100) == 0.5


def test_frozen_parameters_are_left_out():
    module = torch.nn.LSTM(2, 3)
    module.bias_hh_l0.requires_grad_(False)
    for name in ("adam", "rmsprop"):
        groups = make_optimizer(LearnerConfig(optimizer=name), module.parameters()).param_groups
        assert sum(len(g["params"]) for g in groups) == 3
