"""Theorem 1 (section 3, appendix A): multiplicative networks represent all that ReLU MLPs do, and more."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from impala_mi.nn.multiplicative import Multiplicative

widths = st.lists(st.integers(2, 6), min_size=1, max_size=4)
"""Of a network's input and hidden layers: two entries at least, to split."""
seeds = st.integers(0, 2**16)


def mlp(sizes: list[int], seed: int) -> nn.Sequential:
    """Linear layers with rectifiers between them, in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n, k in pairwise(sizes):
        layers += [nn.Linear(n, k), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


class Split(nn.Module):
    """A multiplicative layer of the parts of one input: some of its entries are x, the others z."""

    def __init__(self, is_x: Tensor, k: int) -> None:
        super().__init__()
        self.is_x = is_x
        self.layer = Multiplicative(int(is_x.sum()), int((~is_x).sum()), k).double()

    def forward(self, h: Tensor) -> Tensor:
        return self.layer(h[..., self.is_x], h[..., ~self.is_x])


@torch.no_grad()
def embedded(network: nn.Sequential, splits: list[Tensor]) -> nn.Sequential:
    """Appendix A: each linear layer A [x; z] + c becomes a multiplicative one of W = 0, [V, U^T] = A and b = c."""
    out: list[nn.Module] = []
    rest = iter(splits)
    for module in network:
        if isinstance(module, nn.Linear):
            is_x = next(rest)
            split = Split(is_x, module.out_features)
            split.layer.W.zero_()
            split.layer.V.copy_(module.weight[:, is_x])
            split.layer.U.copy_(module.weight[:, ~is_x].T)
            split.layer.b.copy_(module.bias)
            out.append(split)
        else:
            out.append(copy.deepcopy(module))
    return nn.Sequential(*out)


@pytest.mark.slow
@given(widths, st.integers(1, 6), seeds, st.data())
@settings(max_examples=60)
def test_every_mlp_is_a_multiplicative_network(sizes: list[int], k: int, seed: int, data: st.DataObject) -> None:
    """For any split of each layer's input into two parts."""
    network = mlp([*sizes, k], seed)
    parts = [st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda p: len(set(p)) == 2) for n in sizes]
    splits = [torch.tensor(data.draw(part)) for part in parts]
    x = torch.randn(16, sizes[0], dtype=torch.float64) * 3
    torch.testing.assert_close(embedded(network, splits)(x), network(x), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 8), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_one_multiplicative_unit_is_the_squared_norm(n: int, values: list[float]) -> None:
    """x = z, W the identity, all else zero: x^2 of one number, exactly."""
    unit = Multiplicative(n, n, 1).double()
    with torch.no_grad():
        for p in unit.parameters():
            p.zero_()
        unit.W[:, :, 0] = torch.eye(n)
    x = torch.tensor(values, dtype=torch.float64).unsqueeze(-1).expand(-1, n)
    found = unit(x, x).squeeze(-1)
    if n == 1:
        assert torch.equal(found, torch.tensor(values, dtype=torch.float64) ** 2)
    torch.testing.assert_close(found, (x**2).sum(-1), rtol=1e-14, atol=0.0)


@torch.no_grad()
def active(network: nn.Sequential, x: Tensor) -> Tensor:
    """[..., units] which rectifiers are open at x [..., n]."""
    found = []
    for module in network:
        x = module(x)
        if isinstance(module, nn.ReLU):
            found.append(x > 0)
    return torch.cat(found, -1)


@pytest.mark.slow
@given(st.lists(st.integers(1, 8), min_size=1, max_size=3), seeds)
@settings(max_examples=60)
def test_an_mlp_is_linear_between_its_kinks(hidden: list[int], seed: int) -> None:
    """Why no ReLU MLP is x^2: its second differences are 0 wherever no rectifier switches, those of x^2 nowhere."""
    network = mlp([1, *hidden, 1], seed)
    step = 0.01
    x = torch.arange(-3, 3, step, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        y = network(x).squeeze(-1)
    opened = active(network, x)
    same = (opened[1:] == opened[:-1]).all(-1)
    smooth = same[1:] & same[:-1]
    assert smooth.any()
    second = (y[2:] - 2 * y[1:-1] + y[:-2]) / step**2
    torch.testing.assert_close(second[smooth], torch.zeros_like(second[smooth]), rtol=0.0, atol=1e-9)
    squares = x.squeeze(-1) ** 2
    curvature = (squares[2:] - 2 * squares[1:-1] + squares[:-2]) / step**2
    torch.testing.assert_close(curvature, torch.full_like(curvature, 2.0), rtol=1e-6, atol=0.0)
