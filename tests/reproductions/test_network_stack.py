"""Stacks of networks, compared with training each network alone."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from impala_mi.reproductions.expressivity.shallow_networks import MODELS
from impala_mi.reproductions.network_stack import NetworkStack, make_seeded, prune, stack_parameters

CPU = torch.device("cpu")
D = 4
RATES = [0.1, 0.1, 0.1, 0.001, 0.001, 0.001]


def networks_of(model: str) -> list[nn.Module]:
    """Networks with one output and with D, of three sizes."""
    return [MODELS[model](D, out, size) for out in (1, D) for size in (2, 3, 5)]


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, z and targets: the dot product for the first three networks, the sum for the others."""
    x, z = torch.randn(2, 10, D)
    target = torch.zeros(6, 10, D)
    target[:3, :, :1] = (x * z).sum(-1, keepdim=True)
    target[3:] = x + z
    return x, z, target


def train(stack: NetworkStack, batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
    for x, z, target in batches:
        stack.step((stack(x, z) - target).square().sum(-1).mean(-1))


@pytest.mark.parametrize("model", MODELS)
def test_training_in_a_stack_is_training_one_by_one(model: str) -> None:
    """Networks differ in size, outputs and learning rate; the padding of small ones stays zero."""
    singles = networks_of(model)
    stack = NetworkStack(singles, RATES, shared=True, device=CPU)
    batches = [batch() for _ in range(20)]
    train(stack, batches)
    for i, (single, rate) in enumerate(zip(singles, RATES, strict=True)):
        single = copy.deepcopy(single)
        adam = torch.optim.Adam(single.parameters(), lr=rate)
        for x, z, target in batches:
            adam.zero_grad()
            (single(x, z) - target[i, :, : 1 if i < 3 else D]).square().sum(-1).mean().backward()
            adam.step()
        for name, p in single.named_parameters():
            whole = stack.parameters[name][i].detach().clone()
            own = tuple(slice(length) for length in p.shape)
            torch.testing.assert_close(whole[own], p.detach(), atol=2e-4, rtol=2e-3)
            whole[own] = 0.0
            assert not whole.any()


def test_a_stack_of_own_inputs() -> None:
    singles = [nn.Linear(3, 2) for _ in range(4)]
    stack = NetworkStack(singles, [0.1] * 4, shared=False, device=CPU)
    x = torch.randn(4, 5, 3)
    torch.testing.assert_close(stack(x), torch.stack([f(row) for f, row in zip(singles, x, strict=True)]))


def test_a_network_of_a_stack_is_a_copy() -> None:
    singles = [nn.Linear(3, 2) for _ in range(2)]
    stack = NetworkStack(singles, [0.1] * 2, shared=False, device=CPU)
    x = torch.randn(2, 5, 3)
    before = stack(x).detach()
    copied = stack.network(1)
    stack.step(stack(x).square().mean((1, 2)))
    torch.testing.assert_close(copied(x[1]), before[1])


def test_gradients_are_clipped_by_element() -> None:
    """The second moment after Adam's first step shows the size of the gradient."""
    single = nn.Linear(1, 1)
    moments = []
    for clip in (math.inf, 0.5):
        stack = NetworkStack([single], [0.1], shared=False, device=CPU, clip=clip)
        stack.step(3 * stack(torch.ones(1, 1, 1)).sum((1, 2)))
        moments.append([moment["exp_avg_sq"].item() for moment in stack.state()["adam"]["state"].values()])
    assert moments == [pytest.approx([0.009] * 2), pytest.approx([0.00025] * 2)]


def test_a_stack_continues_from_its_state() -> None:
    """Bit for bit."""
    singles, batches = networks_of("MI"), [batch() for _ in range(12)]
    whole = NetworkStack(singles, RATES, shared=True, device=CPU)
    train(whole, batches)
    first = NetworkStack(singles, RATES, shared=True, device=CPU)
    train(first, batches[:5])
    state = copy.deepcopy(first.state())
    second = NetworkStack(networks_of("MI"), RATES, shared=True, device=CPU)
    second.restore(state)
    train(second, batches[5:])
    for name, p in whole.parameters.items():
        assert torch.equal(p, second.parameters[name])


@given(st.floats(0.0, 2.0), st.integers(0, 2**16))
@settings(max_examples=30)
def test_pruning(below: float, seed: int) -> None:
    torch.manual_seed(seed)
    parameters = stack_parameters([nn.Linear(3, 2), nn.Linear(1, 2)], CPU)
    rest, counts = prune(parameters, below)
    for i in range(2):
        values = torch.cat([p[i].detach().flatten() for p in parameters.values()])
        kept = torch.cat([p[i].flatten() for p in rest.values()])
        assert counts[i] == int((values.abs() >= below).sum())
        assert torch.equal(kept, torch.where(values.abs() >= below, values, 0.0))


def test_initial_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, second = (make_seeded(3, lambda: nn.Linear(2, 2)) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, make_seeded(4, lambda: nn.Linear(2, 2)).weight)
    assert torch.equal(before, torch.get_rng_state())
