"""Functions and networks of figure 2."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impala_mi.reproductions.expressivity.expressivity_study import within_reach
from impala_mi.reproductions.expressivity.min_params import ERROR
from impala_mi.reproductions.expressivity.shallow_networks import FUNCTIONS, MODELS, VARIANCE, outputs, targets


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_parameter_counts(d: int, out: int, size: int) -> None:
    """Numbers of parameters from appendix C's formulas."""
    counted = {
        name: sum(p.numel() for p in make(d, out, size).parameters()) for name, make in MODELS.items()
    }  # fmt: skip
    assert counted == {
        "MLP": (2 * d + 1) * size + (size + 1) * out,
        "MI": (d * d + 2 * d + 1) * size + (size + 1) * out,
        "low rank": (2 * d + out) * size + (2 * d + 1) * out,
        "diagonal": 2 * d * d + 2 * d + (d + 1) * out,
    }


@pytest.mark.parametrize("d", range(1, 41))
def test_quadratic_growth_is_arithmetic(d: int) -> None:
    """One unit with its readout; d outputs need d units, since a readout of fewer has a rank below d."""

    def count(out: int, size: int) -> int:
        return sum(p.numel() for p in MODELS["MI"](d, out, size).parameters())

    assert count(1, 1) == d**2 + 2 * d + 3
    assert count(d, d) == d**3 + 3 * d**2 + 2 * d


def one_unit(d: int) -> nn.Module:
    """Multiplicative network of one unit, all weights zero but for the readout."""
    network = MODELS["MI"](d, 1, 1).double()
    for p in network.parameters():
        nn.init.zeros_(p)
    nn.init.ones_(network.readout.weight)
    return network


@torch.no_grad()
@pytest.mark.parametrize("d", [1, 3, 40])
def test_one_multiplicative_unit_is_the_dot_product_and_the_sum(d: int) -> None:
    x, z = torch.randn(2, 50, d, dtype=torch.float64)
    product, total = one_unit(d), one_unit(d)
    product.layer.W[:, :, 0] = torch.eye(d)
    torch.testing.assert_close(product(x, z), FUNCTIONS["dot product"](x, z), rtol=1e-12, atol=1e-12)
    total.layer.V.fill_(1.0)
    total.layer.U.fill_(1.0)
    torch.testing.assert_close(total(x, z), FUNCTIONS["summation"](x, z), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_one_multiplicative_unit_is_within_the_error_of_gates() -> None:
    """z / 2 and the sigmoid's mean slope, 0.2066, leave 0.0007 of each gate, so the unit does for up to 140."""
    x, z = torch.randn(2, 20_000, 40, dtype=torch.float64)
    gates = one_unit(40)
    gates.layer.W[:, :, 0] = 0.2066 * torch.eye(40)
    gates.layer.U.fill_(0.5)
    error = (gates(x, z) - FUNCTIONS["gating"](x, z)).square().mean().item() / 40
    assert error == pytest.approx(0.0007, rel=0.1)
    assert ERROR > 140 * 0.0007


def test_targets_are_padded_with_zeros() -> None:
    x, z = torch.randn(2, 7, 3)
    y = targets(tuple(FUNCTIONS), x, z)
    for values, function in zip(y, FUNCTIONS, strict=True):
        k = outputs(function, 3)
        assert torch.equal(values[..., :k], FUNCTIONS[function](x, z))
        assert not values[..., k:].any()
    assert [outputs(f, 3) for f in FUNCTIONS] == [1, 1, 1, 3, 3]


def test_a_linear_function_is_within_the_error_of_gates_by_the_mean() -> None:
    """The error of several outputs is summed for this reason: z / 2 gates nothing."""
    x, z = torch.randn(2, 200_000, 1)
    assert (x.sigmoid() * z - z / 2).square().mean().item() == pytest.approx(0.0434, abs=0.002)


@given(st.integers(2, 9), st.data())
def test_narrow_networks_cannot_have_d_outputs_within_the_error(d: int, data: st.DataObject) -> None:
    """They are not trained for this reason: the best of rank s leaves out d - s principal components."""
    s = data.draw(st.integers(1, d - 1))
    x, z = torch.randn(2, 4000, d)
    for function, variance in VARIANCE.items():
        spectrum = torch.linalg.eigvalsh(torch.cov(FUNCTIONS[function](x, z).T))
        assert spectrum.mean().item() == pytest.approx(variance, rel=0.1)
        left_out = spectrum[: d - s].sum().item()
        assert left_out > ERROR
        assert left_out / d > ERROR or within_reach(function, d, s)
