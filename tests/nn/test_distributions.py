"""Action distributions against sums, integrals and samples."""

import math

import numpy as np
import pytest
import torch

from impala_mi.nn.distributions import LOG_STD_RANGE, ActionEncoder, _quadrature, distribution
from impala_mi.types import Box, Discrete, MultiDiscrete

SPACES = [Discrete(4), MultiDiscrete((3, 2, 4)), Box((-1.0, 0.0), (1.0, 5.0))]
SAMPLES = 40_000


def params_of(space, seed=0, rows=1):
    return torch.randn(rows, space.num_params, generator=torch.Generator().manual_seed(seed)).double()


def samples_of(policy, count=SAMPLES):
    """Samples [count, *action_shape] of a policy with parameters [count, P]."""
    return policy.sample(torch.Generator().manual_seed(1))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_shapes(space):
    params = torch.randn(7, 3, space.num_params)
    policy, other = distribution(space, params), distribution(space, torch.randn(7, 3, space.num_params))
    generator = torch.Generator().manual_seed(0)
    for action in (policy.sample(generator), policy.mode()):
        assert action.shape == (7, 3, *space.shape)
        assert str(action.dtype) == f"torch.{space.dtype}"
        assert policy.log_prob(action).shape == (7, 3)
    assert policy.entropy().shape == policy.kl(other).shape == (7, 3)


def every_action(space):
    sizes = space.sizes if isinstance(space, MultiDiscrete) else (space.n,)
    grid = torch.cartesian_prod(*(torch.arange(n) for n in sizes))
    return grid if isinstance(space, MultiDiscrete) else grid.flatten()


@pytest.mark.parametrize("space", SPACES[:2], ids=str)
def test_choices_against_sums_over_all_actions(space):
    actions = every_action(space)
    p, q = (distribution(space, params_of(space, seed).expand(len(actions), -1)) for seed in (0, 1))
    log_p, log_q = p.log_prob(actions), q.log_prob(actions)
    torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0).double())
    torch.testing.assert_close(p.entropy()[0], -(log_p.exp() * log_p).sum())
    torch.testing.assert_close(p.kl(q)[0], (log_p.exp() * (log_p - log_q)).sum())
    assert torch.equal(actions[log_p.argmax()], p.mode()[0])


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_have_the_entropy_and_the_divergence(space):
    """Monte Carlo: both are expectations over samples, whatever the action space."""
    p, q = (distribution(space, params_of(space, seed).expand(SAMPLES, -1)) for seed in (0, 1))
    actions = samples_of(p)
    log_p, log_q = p.log_prob(actions), q.log_prob(actions)
    for values, exact in ((-log_p, p.entropy()[0]), (log_p - log_q, p.kl(q)[0])):
        error = values.std() / SAMPLES**0.5
        assert abs(values.mean() - exact) < 4 * error + 0.002
    assert (p.kl(p).abs() < 1e-9).all()


def test_a_density_is_that_of_the_environments_numbers():
    """The density of low + (high - low) (tanh(u) + 1) / 2 integrates to 1 over the bounds."""
    space = Box((-2.0,), (4.0,))
    for seed in range(3):
        x = np.linspace(-2, 4, 200_003)[1:-1]
        u = torch.from_numpy(np.arctanh((x + 2) / 3 - 1))[:, None]
        density = distribution(space, params_of(space, seed)).log_prob(u).exp().numpy()
        assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("raw", [-1e6, 0.0, 1e6])
def test_a_gaussian_stays_within_its_range_and_finite_far_out(raw):
    space = Box((-1.0,), (1.0,))
    params = torch.tensor([[0.3, raw]], requires_grad=True)
    policy = distribution(space, params)
    expected = {-1e6: LOG_STD_RANGE[0], 0.0: 0.0, 1e6: LOG_STD_RANGE[1]}[raw]
    assert policy.log_std.item() == pytest.approx(expected, abs=1e-5)
    loss = policy.log_prob(torch.tensor([[30.0]])) + policy.entropy()
    loss.sum().backward()
    assert loss.isfinite().all()
    assert params.grad.isfinite().all()


@pytest.mark.parametrize("log_std", [LOG_STD_RANGE[0], 0.0, LOG_STD_RANGE[1] - 1e-3])
@pytest.mark.parametrize("mean", [0.0, 1.0, 4.0])
def test_quadrature_of_the_entropy(mean, log_std):
    low, high = LOG_STD_RANGE
    share = (log_std - low) / (high - low)
    raw = math.log(share / (1 - share)) + math.log(-high / low) if 0 < share < 1 else -50.0
    policy = distribution(Box((0.0,), (1.0,)), torch.tensor([[mean, raw]]).double())
    std = policy.log_std.exp().item()
    x = np.linspace(-10, 10, 100_001)
    weights = np.exp(-x * x / 2)
    u = mean + std * x
    slope = 2 * (math.log(2) - u - np.logaddexp(0, -2 * u))
    expected = 0.5 * math.log(2 * math.pi * math.e) + math.log(std) + (slope * weights).sum() / weights.sum()
    assert policy.entropy().item() == pytest.approx(expected + math.log(0.5), abs=0.002)


def test_environment_actions_are_within_the_bounds():
    space = Box((-1.0, 0.0), (1.0, 5.0))
    actions = np.array([[-50.0, 50.0], [0.0, 0.0], [50.0, -50.0]], np.float32)
    np.testing.assert_allclose(space.env_actions(actions), [[-1, 5], [0, 2.5], [1, 0]], atol=1e-6)
    uniform = np.stack(space.env_actions(space.random(np.random.default_rng(0), 20_000)))
    assert uniform.min(0) == pytest.approx([-1, 0], abs=0.01)
    assert uniform.max(0) == pytest.approx([1, 5], abs=0.01)
    assert uniform.mean(0) == pytest.approx([0, 2.5], abs=0.05)


def test_past_actions_as_features():
    assert ActionEncoder(Discrete(3))(torch.tensor([0, 2, -1])).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    multi = ActionEncoder(MultiDiscrete((2, 3)))
    assert multi.width == 5
    assert multi(torch.tensor([[1, 0], [0, 2], [-1, -1]])).tolist() == [
        [0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0]
    ]  # fmt: skip
    box = ActionEncoder(Box((-1.0,), (1.0,)))
    assert box(torch.tensor([[0.0], [20.0]])).tolist() == [[0.0], [1.0]]
    assert all(not ActionEncoder(space).state_dict() for space in SPACES)  # old checkpoints fit


@pytest.mark.parametrize(
    ("low", "high"), [((0.0,), (0.0,)), ((1.0,), (0.0,)), ((-3.4e38,), (3.4e38,)), ((0.0,), (math.inf,))]
)
def test_a_box_has_finite_ranges(low, high):
    with pytest.raises(ValueError, match="are not finite ranges"):
        Box(low, high)


def test_an_entropy_in_inference_mode_does_not_spoil_later_gradients():
    space, params = Box((0.0,), (1.0,)), torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    _quadrature.cache_clear()
    with torch.inference_mode():
        distribution(space, params).entropy()
    distribution(space, params).entropy().sum().backward()
    assert params.grad.isfinite().all()
