"""Functions and networks of figure 2."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
