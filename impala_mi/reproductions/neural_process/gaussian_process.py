"""Functions drawn from a Gaussian process, and their posterior given some points.

The kernel is the exponentiated quadratic, k(x, x') = exp(-(x - x')^2 / (2 l^2)), of variance 1 (paper, appendix F).
"""

import torch
from torch import Tensor

NOISE = 0.02
"""Standard deviation of the observations' noise (paper, appendix F)."""


def kernel(x: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """Covariances [..., N, M] of x [..., N] and `other` [..., M], at length scales [...]."""
    apart = (x.unsqueeze(-1) - other.unsqueeze(-2)) / scale[..., None, None]
    return apart.square_().mul_(-0.5).exp_()


def draw(x: Tensor, scale: Tensor, noise: Tensor | float, normal: Tensor) -> Tensor:
    """Noisy values [..., N] of one function at x [..., N].

    Args:
        x: inputs.
        scale: length scales [...].
        noise: standard deviation of the noise, of all points or of each [N]. It also regularises the covariance,
            which is nearly singular for smooth functions: `NOISE` allows single precision, 1e-4 needs double.
        normal: standard normal numbers [..., N].
    """
    covariance = kernel(x, x, scale)
    covariance.diagonal(dim1=-2, dim2=-1).add_(torch.as_tensor(noise, dtype=x.dtype, device=x.device).square())
    return (torch.linalg.cholesky(covariance) @ normal.unsqueeze(-1)).squeeze(-1)


def posterior(x: Tensor, y: Tensor, at: Tensor, scale: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [..., T] of a noisy value at each target `at` [..., T].

    The contexts x, y [..., N] and the length scales [...] are known, so no prediction can be better.
    """
    covariance = kernel(x, x, scale)
    covariance.diagonal(dim1=-2, dim2=-1).add_(noise**2)
    factor = torch.linalg.cholesky(covariance)
    across = torch.linalg.solve_triangular(factor, kernel(x, at, scale), upper=False)
    known = torch.linalg.solve_triangular(factor, y.unsqueeze(-1), upper=False)
    mean = (across.mT @ known).squeeze(-1)
    return mean, (1 + noise**2 - across.square().sum(-2)).sqrt()
