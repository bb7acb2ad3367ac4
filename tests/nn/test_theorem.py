"""Theorems 1 and 2 (section 3, appendix A): networks that represent all that others do, and more.

Theorem 1: with multiplicative layers in place of linear ones, compared with ReLU MLPs; they add x^2 and products.
Theorem 2: with the Weierstrass function in place of some activations, compared with ReLU and smooth activations.
"""

import copy
import math
from collections.abc import Callable
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


def mlp(sizes: list[int], seed: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with activations between them, in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n, k in pairwise(sizes):
        layers += [nn.Linear(n, k), activation()]
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


@torch.no_grad()
def slope_bound(network: nn.Sequential) -> float:
    """Lipschitz constant that no slope of the network exceeds, if none of its activations' exceeds 1."""
    return math.prod(float(torch.linalg.matrix_norm(m.weight)) for m in network if isinstance(m, nn.Linear))


@torch.no_grad()
@given(st.integers(1, 6), st.lists(st.integers(1, 8), max_size=3), seeds)
@settings(max_examples=60)
def test_no_mlp_is_the_dot_product_which_one_multiplicative_unit_is(n: int, hidden: list[int], seed: int) -> None:
    """Theorem 1, strict: at x = z = (t, 0, ..., 0) the product is t^2; an MLP gets no further than its slope."""
    network = mlp([2 * n, *hidden, 1], seed)
    unit = Multiplicative(n, n, 1).double()
    for p in unit.parameters():
        p.zero_()
    unit.W[:, :, 0] = torch.eye(n)
    slope = math.sqrt(2) * slope_bound(network)
    offset = abs(float(network(torch.zeros(2 * n, dtype=torch.float64))))
    far = slope + math.sqrt(offset) + 1
    x = torch.zeros(n, dtype=torch.float64)
    x[0] = far
    product = float(x @ x)
    assert float(unit(x, x)) == product
    assert abs(float(network(torch.cat([x, x])))) <= (slope * far + offset) * (1 + 1e-12) < product


BASE, DECAY = 7, 0.5
"""Theorem 2's Weierstrass function: the sum over n >= 0 of DECAY^n cos(BASE^n pi x)."""
STEEPER = BASE * DECAY
LEAST_QUOTIENT = 2 / (1 - DECAY) - math.pi / (STEEPER - 1)
"""Difference quotients between neighbours among the multiples of BASE^-m are at least this times STEEPER^m.

At k / BASE^m the terms from n = m on are DECAY^n (-1)^k, as BASE is odd, and set neighbours 2 DECAY^m / (1 - DECAY)
apart. The slopes of the earlier terms are at most pi STEEPER^n, in sum below pi STEEPER^m / (STEEPER - 1).
Quotients over intervals around a point converge to a derivative there, so there is none anywhere.
(Weierstrass's own condition, STEEPER > 1 + 3 pi / 2, does not hold for the paper's numbers; Hardy's of 1916 does.)
"""


def weierstrass_at(k: int, m: int) -> float:
    """The function at k / BASE^m, but for rounding: angles are reduced as integers, the tail is summed exactly."""
    period = 2 * BASE**m
    head = sum(DECAY**n * math.cos(math.pi * (k * BASE**n % period) / BASE**m) for n in range(m))
    return head + (-1) ** k * DECAY**m / (1 - DECAY)


class Weierstrass(nn.Module):
    """The function's first terms; double precision does not hold the angles of later ones."""

    def forward(self, x: Tensor) -> Tensor:
        return sum((DECAY**n * torch.cos(BASE**n * torch.pi * x) for n in range(12)), torch.zeros_like(x))


weierstrass_points = st.tuples(st.integers(-(7**12), 7**12), st.integers(0, 12))


@given(weierstrass_points)
def test_the_weierstrass_function_has_no_derivative_anywhere(point: tuple[int, int]) -> None:
    """Theorem 2: its quotients over the intervals of every level m around a point grow without bound."""
    k, finest = point
    for m in range(finest + 1):
        low = k // BASE ** (finest - m)  # the interval of level m that holds k / BASE^finest
        rise = weierstrass_at(low + 1, m) - weierstrass_at(low, m)
        assert abs(rise) * BASE**m >= LEAST_QUOTIENT * STEEPER**m * (1 - 1e-6)
        assert (rise > 0) == (low % 2 == 1)


def test_the_sum_is_the_function() -> None:
    """One hidden unit of weights 1 and biases 0 is the function itself; the sum that is left out is below 2^-11."""
    network = nn.Sequential(nn.Linear(1, 1), Weierstrass(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
        for k in range(-20, 20):
            found = float(network(torch.tensor([k / BASE**2], dtype=torch.float64)))
            assert found == pytest.approx(weierstrass_at(k, 2), abs=2**-11 + 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus])
@given(hidden=st.lists(st.integers(1, 8), min_size=1, max_size=3), seed=seeds, at=st.integers(-100, 100))
@settings(max_examples=30)
def test_no_mlp_is_the_weierstrass_function(
    activation: Callable[[], nn.Module], hidden: list[int], seed: int, at: int
) -> None:
    """Theorem 2, strict, for ReLU and smooth activations: some interval is too steep for a given network.

    At one of its ends they differ by half of what the network's slope cannot follow, or more. The interval can be
    near any point, here `at` / 100.
    """
    network = mlp([1, *hidden, 1], seed, activation)
    slope = slope_bound(network)
    m = next(m for m in range(100) if LEAST_QUOTIENT * STEEPER**m > 2 * slope)
    low = at * BASE**m // 100
    apart = [
        abs(float(network(torch.tensor([k / BASE**m], dtype=torch.float64))) - weierstrass_at(k, m))
        for k in (low, low + 1)
    ]
    cannot_follow = (LEAST_QUOTIENT * STEEPER**m - slope) / BASE**m
    assert max(apart) >= cannot_follow / 2 * (1 - 1e-9)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), seeds)
@settings(max_examples=30)
def test_every_mlp_is_one_of_which_no_activation_was_replaced(sizes: list[int], seed: int) -> None:
    """Theorem 2, inclusion: a network with some units of another activation, whose outgoing weights are zero."""

    class SomeReplaced(nn.Module):
        """Rectifiers, and the Weierstrass function for the last unit."""

        def forward(self, h: Tensor) -> Tensor:
            return torch.cat([h[..., :-1].relu(), Weierstrass()(h[..., -1:])], -1)

    network = mlp([*sizes, 1], seed)
    wider = mlp([sizes[0], *(n + 1 for n in sizes[1:]), 1], seed + 1, SomeReplaced)
    linear = [module for module in network if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for own, other in zip(wider[::2], linear, strict=True):
            n, k = other.in_features, other.out_features
            own.weight[:k, :n], own.bias[:k] = other.weight, other.bias
            if own.in_features > n:
                own.weight[:, n:] = 0.0
        x = torch.randn(16, sizes[0], dtype=torch.float64)
        torch.testing.assert_close(wider(x), network(x), rtol=1e-12, atol=1e-12)
