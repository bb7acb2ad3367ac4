"""Draws and posteriors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions

from impala_mi.reproductions.neural_process.gaussian_process import NOISE, draw, kernel, posterior
from impala_mi.reproductions.neural_process.held_out import POINTS


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_draws_have_the_covariance_of_the_kernel_and_the_noise(dtype: torch.dtype, within: float) -> None:
    x = torch.rand(POINTS, dtype=dtype) * 4 - 2
    for scale in (0.1, 1.0, 10.0):
        length = torch.tensor(scale, dtype=dtype)
        columns = draw(x, length, NOISE, torch.eye(POINTS, dtype=dtype))  # of the factor
        apart = x.double()[:, None] - x.double()
        expected = torch.exp(-(apart**2) / (2 * scale**2)) + NOISE**2 * torch.eye(POINTS, dtype=torch.float64)
        assert torch.allclose((columns.T @ columns).double(), expected, rtol=0, atol=within)


@settings(max_examples=25)
@given(st.integers(1, 8), st.floats(0.1, 10.0), st.integers(0, 10**6))
def test_posteriors_multiply_to_the_density_of_all_points(points: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(points, dtype=torch.float64, generator=generator) * 4 - 2
    y = torch.randn(points, dtype=torch.float64, generator=generator)
    length = torch.tensor(scale, dtype=torch.float64)
    whole = kernel(x, x, length) + NOISE**2 * torch.eye(points, dtype=torch.float64)
    expected = distributions.MultivariateNormal(torch.zeros_like(x), whole).log_prob(y)
    density = torch.zeros((), dtype=torch.float64)
    for n in range(points):
        mean, sd = posterior(x[:n], y[:n], x[n : n + 1], length, NOISE)
        density = density + distributions.Normal(mean, sd).log_prob(y[n])
    assert torch.allclose(density, expected, rtol=1e-6, atol=1e-6)
