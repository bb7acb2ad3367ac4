import numpy as np
import pytest
import torch

from impala_mi.config import LearnerConfig
from impala_mi.learner.optim import Adam, Optimizer, RMSPropTF, learning_rate, make_optimizer


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_tensorflows(momentum):
    """Slot starting at 1, epsilon inside the root; by hand in NumPy."""
    rng = np.random.default_rng(0)
    p = torch.nn.Parameter(torch.tensor(rng.normal(size=5)))
    want, ms, mom = p.detach().numpy().copy(), np.ones(5), np.zeros(5)
    optimizer = Optimizer(RMSPropTF(decay=0.9, momentum=momentum, eps=0.1), [p])
    for _ in range(20):
        g = rng.normal(size=5)
        p.grad = torch.tensor(g)
        optimizer.step(optimizer.gradient(), 0.1)
        ms = 0.9 * ms + 0.1 * g * g
        mom = momentum * mom + 0.1 * g / np.sqrt(ms + 0.1)
        want -= mom
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-12)


def test_first_step_is_not_pytorchs():
    """PyTorch's own starts at 0 with epsilon outside: its first step is some ten times longer."""
    p, q = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    p.grad = q.grad = torch.ones(1)
    Optimizer(RMSPropTF(eps=1e-8), [p]).step(p.grad, 1.0)
    torch.optim.RMSprop([q], 1.0, 0.99, 1e-8).step()
    assert [-p.item(), -q.item()] == pytest.approx([1.0, 10.0], rel=1e-3)


def test_adam_is_pytorchs():
    torch.manual_seed(0)
    shapes = [(3, 4), (5,), ()]
    mine, theirs = ([torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in shapes] for _ in range(2))
    optimizer, reference = Optimizer(Adam(eps=1e-3), mine), torch.optim.Adam(theirs, eps=1e-3)
    for i in range(30):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = q.grad = torch.randn_like(p)
        reference.param_groups[0]["lr"] = rate = 0.1 / (i + 1)
        optimizer.step(optimizer.gradient(), rate)
        reference.step()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_state_is_a_copy_from_which_another_continues(name):
    config = LearnerConfig(optimizer=name, rmsprop_momentum=0.5)
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    one, other = make_optimizer(config, [p]), make_optimizer(config, [q])
    for optimizer in (one, one, other):
        optimizer.params[0].grad = torch.tensor([1.0, -2.0])
        optimizer.step(optimizer.gradient(), 0.1)
    state = one.state_dict()
    kept = {name: [t.clone() for t in tensors] for name, tensors in state["slots"].items()}
    one.step(one.gradient(), 0.1)
    assert state["steps"] == 2
    for name, tensors in kept.items():
        assert torch.equal(state["slots"][name][0], tensors[0])
        assert not torch.equal(one.state_dict()["slots"][name][0], tensors[0])
    with torch.no_grad():
        q.copy_(p)
    other.load_state_dict(one.state_dict())
    for optimizer in (one, other):
        optimizer.step(optimizer.gradient(), 0.1)
    assert torch.equal(p, q)


def test_parameters_without_gradient_stay():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    q.grad = torch.ones(2)
    optimizer = Optimizer(RMSPropTF(), [p, q])
    optimizer.step(optimizer.gradient(), 0.1)
    assert (q < 1).all()
    assert (p == 1).all()
    optimizer.zero_grad()
    optimizer.step(optimizer.gradient(), 0.1)
    assert q.grad is None


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_a_step_that_is_not_good_leaves_everything_as_it_is(name):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer(LearnerConfig(optimizer=name, rmsprop_momentum=0.5), [p])
    optimizer.step(torch.tensor([1.0, -2.0]), 0.1, torch.tensor(True))
    kept, before = optimizer.state_dict(), p.detach().clone()
    optimizer.step(torch.tensor([float("nan"), float("inf")]), 0.1, torch.tensor(False))
    now = optimizer.state_dict()
    assert torch.equal(p, before)
    assert now["steps"] == kept["steps"] == 1
    assert all(torch.equal(now["slots"][k][0], kept["slots"][k][0]) for k in kept["slots"])


def test_learning_rate_falls_to_zero():
    config = LearnerConfig(learning_rate=0.5)
    assert [learning_rate(config, f, 100) for f in (0, 50, 100, 120)] == [0.5, 0.25, 0.0, 0.0]
    assert learning_rate(LearnerConfig(learning_rate=0.5, learning_rate_schedule="constant"), 99, 100) == 0.5


def test_frozen_parameters_are_left_out():
    module = torch.nn.LSTM(2, 3)
    module.bias_hh_l0.requires_grad_(False)
    for name in ("adam", "rmsprop"):
        assert len(make_optimizer(LearnerConfig(optimizer=name), module.parameters()).params) == 3
