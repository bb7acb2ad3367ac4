"""PopArt: statistics, preserved values and the gradients of Hessel et al. (2019)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from impala_mi.config import AgentConfig
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent
from impala_mi.nn.heads import HEADS, Head, HeadSpec
from impala_mi.nn.value_normaliser import MAX_SCALE, MIN_SCALE, NORMALISERS, Identity, PopArt, make_normaliser
from impala_mi.types import Spaces

H, A, K = 12, 3, 4
TRUE = torch.tensor(True)


def popart(beta: float = 0.01) -> PopArt:
    return PopArt(AgentConfig(popart_beta=beta), K)


def make(head: str, conditioned: str = "both") -> Head:
    config = AgentConfig(
        head=head, conditioned=conditioned, core_width=H, context_width=5, value_normaliser="popart"
    )
    module = Head(config, A, K, value_per_level=True).double()
    for p in module.parameters():  # no parameter is left at zero
        nn.init.normal_(p, std=0.5)
    return module


def test_statistics_are_those_of_one_return_after_the_other():
    """Moving averages in plain Python; within a batch a level's returns are taken at their mean."""
    normaliser, rng, beta = popart(), np.random.default_rng(0), 0.01
    mean, square = [0.0] * K, [1.0] * K
    for _ in range(8):
        returns, levels = rng.normal(5, 30, (6, 5)), rng.integers(0, K - 1, (6, 5))  # the last level never comes
        for k in set(levels.flatten().tolist()):
            values = returns[levels == k]
            for _ in values:
                mean[k] = (1 - beta) * mean[k] + beta * values.mean()
                square[k] = (1 - beta) * square[k] + beta * (values**2).mean()
        normaliser.update(torch.from_numpy(returns), torch.from_numpy(levels), make("shared").value, TRUE)
        np.testing.assert_allclose(normaliser.mean, mean)
        np.testing.assert_allclose(
            normaliser.sigma, [math.sqrt(b - a * a) for a, b in zip(mean, square, strict=True)]
        )
    assert normaliser.sigma[K - 1] == 1
    assert normaliser.seen.tolist() == [1, 1, 1, 0]
    metrics = normaliser.metrics()
    assert metrics["learner/value_scale"].item() == pytest.approx(normaliser.sigma[:-1].mean().item())
    assert metrics["learner/value_scale_max"].item() == pytest.approx(normaliser.sigma.max().item())


def test_the_scale_stays_within_its_bounds():
    normaliser, level = popart(0.9), torch.zeros(50, 1, dtype=torch.long)
    for value, bound in ((7.0, MIN_SCALE), (0.0, MIN_SCALE), (1e9, MAX_SCALE)):
        returns = torch.full((50, 1), value, dtype=torch.float64)
        returns[25:] *= -1 if bound == MAX_SCALE else 1
        normaliser.update(returns, level, make("shared").value, TRUE)
        assert normaliser.sigma[0].item() == pytest.approx(bound)


VARIANTS = [
    *((head, "both") for head in HEADS),
    ("mi_task", "policy"),
    ("per_task", "value"),
    ("mi_context", "value"),
]


@pytest.mark.parametrize(("head", "conditioned"), VARIANTS)
@given(seed=st.integers(0, 2**31), exponent=st.floats(-3, 5))
@settings(max_examples=8)
def test_values_are_preserved_for_every_input_as_the_statistics_move(head, conditioned, seed, exponent):
    torch.manual_seed(seed)
    module, normaliser = make(head, conditioned), popart()
    h, level = torch.randn(40, H, dtype=torch.float64), torch.arange(K).repeat(10)

    def values():
        return normaliser.denormalise(module(h, level).value, level)

    policy, before = module(h, level).logits, values()
    for _ in range(3):
        returns = 10**exponent * (torch.randn(8, 5, dtype=torch.float64) + 2)
        sigma = normaliser.sigma
        normaliser.update(returns, torch.randint(0, K, (8, 5)), module.value, TRUE)
        assert not torch.equal(normaliser.sigma, sigma)
        torch.testing.assert_close(values(), before, rtol=1e-9, atol=1e-9 * max(1, 10**exponent))
    assert torch.equal(module(h, level).logits, policy)


@pytest.mark.parametrize("head", HEADS)
def test_values_are_preserved_to_the_rounding_of_float32(head):
    module, normaliser = make(head).float(), popart()
    h, level = torch.randn(40, H), torch.arange(K).repeat(10)
    before = normaliser.denormalise(module(h, level).value, level)
    normaliser.update(1000 * torch.rand(8, 5), torch.randint(0, K, (8, 5)), module.value, TRUE)
    after = normaliser.denormalise(module(h, level).value, level)
    assert normaliser.mean.max() > 10
    # Sums of numbers as large as the mean round to float32.
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6 * normaliser.mean.max().item())


@pytest.mark.parametrize("head", ["shared", "per_task"])
def test_training_equals_a_transcription_of_popart(head):
    """A linear value function per level (Hessel et al. 2019): SGD in normalised units, then the rescaling."""
    rate, beta, rng = 0.1, 0.02, np.random.default_rng(1)
    module, normaliser = make(head), popart(beta)
    w, b = (p.detach().numpy().copy() for p in module.value.linear.parameters())
    mean, square, seen = np.zeros(K), np.ones(K), np.zeros(K, bool)
    for _ in range(12):
        h, levels = rng.normal(size=(9, H)), rng.integers(0, K, 9)
        returns = 100.0 ** (levels - 1) * rng.normal(2, 1, 9)
        # Ours.
        x, k, target = torch.from_numpy(h), torch.from_numpy(levels), torch.from_numpy(returns)
        value = module(x, k).value
        loss = 0.5 * (normaliser.normalise(target, value, k) - value).square().sum()
        for p, g in zip(
            module.value.parameters(), torch.autograd.grad(loss, module.value.parameters()), strict=True
        ):
            p.data -= rate * g
        normaliser.update(target[None], k[None], module.value, TRUE)
        # The transcription; the first batch of a level only sets its statistics.
        sigma = np.sqrt(square - mean**2)
        gradient_w, gradient_b = np.zeros_like(w), np.zeros_like(b)
        for x_i, k_i, g_i in zip(h, levels, returns, strict=True):
            error = w[k_i] @ x_i + b[k_i] - (g_i - mean[k_i]) / sigma[k_i]
            gradient_w[k_i] += seen[k_i] * error * x_i
            gradient_b[k_i] += seen[k_i] * error
        w, b = w - rate * gradient_w, b - rate * gradient_b
        old_mean, old_sigma = mean.copy(), sigma
        for k_i in set(levels.tolist()):
            values = returns[levels == k_i]
            for _ in values:
                mean[k_i] += beta * (values.mean() - mean[k_i])
                square[k_i] += beta * ((values**2).mean() - square[k_i])
            seen[k_i] = True
        sigma = np.sqrt(square - mean**2)
        w = w * (old_sigma / sigma)[:, None]
        b = (old_sigma * b + old_mean - mean) / sigma
        np.testing.assert_allclose(module.value.linear.weight.detach(), w, rtol=1e-9)
        np.testing.assert_allclose(module.value.linear.bias.detach(), b, rtol=1e-9)


def test_each_level_moves_only_what_belongs_to_its_value():
    """A shared head has a row per level, as in Hessel et al.; the gradient of one level leaves the others alone."""
    module, h = make("shared"), torch.randn(6, H, dtype=torch.float64)
    module(h, torch.full((6,), 2)).value.sum().backward()
    assert module.value.linear.weight.grad[2].abs().min() > 0
    assert module.value.linear.weight.grad[[0, 1, 3]].abs().max() == 0


def test_the_loss_is_in_units_of_the_scale():
    normaliser, level = popart(), torch.tensor([[0, 1]])
    returns, value = torch.tensor([[500.0, 500.0]]), torch.tensor([[0.25, 0.25]])
    # Without statistics there is nothing to learn.
    assert torch.equal(normaliser.normalise(returns, value, level), value)
    assert torch.equal(normaliser.scale(returns, level), torch.zeros(1, 2))
    normaliser.mean[1], normaliser.second_moment[1], normaliser.seen[1] = 100.0, 100.0**2 + 50.0**2, 1
    assert normaliser.normalise(returns, value, level).tolist() == [[0.25, 8.0]]
    assert normaliser.scale(returns, level).tolist() == [[0.0, 10.0]]
    assert normaliser.denormalise(value, level).tolist() == [[0.25, 112.5]]


def test_an_update_that_was_skipped_changes_nothing():
    module, normaliser = make("mi_task"), popart()
    normaliser.update(torch.randn(5, 5).double(), torch.randint(0, K, (5, 5)), module.value, TRUE)
    kept = {name: t.clone() for name, t in (module.state_dict() | normaliser.state_dict()).items()}
    returns = torch.full((5, 5), float("nan"), dtype=torch.float64)
    normaliser.update(returns, torch.randint(0, K, (5, 5)), module.value, torch.tensor(False))
    assert all(torch.equal(t, kept[name]) for name, t in (module.state_dict() | normaliser.state_dict()).items())


@pytest.mark.parametrize("head", [name for name, spec in HEADS.items() if not spec.needs_task])
def test_a_policy_that_is_not_told_the_task_acts_without_it(head):
    module, h, level = make(head).eval(), torch.randn(8, H).double(), torch.arange(K).repeat(2)
    untold = module(h, None)
    torch.testing.assert_close(untold.logits, module(h, level).logits)
    assert untold.value.isnan().all()
    assert popart().denormalise(untold.value, None).isnan().all()
    assert module(h, level).value.isfinite().all()
    with pytest.raises(ValueError, match="need the level"):
        module.train()(h, None)


def test_the_generated_row_of_the_level_is_shown():
    module, h, level = make("mi_context"), torch.randn(6, H).double(), torch.randint(0, K, (6,))
    vectors = module.vectors(h, level)
    assert vectors["value"].shape == (6, H)
    bias = module.value.layer.generate(vectors["context"]).bias[torch.arange(6), level]
    torch.testing.assert_close((vectors["value"] * h).sum(1) + bias, module(h, level).value)


PLAIN = HeadSpec(lambda config, k, num_levels: NoRescale(k))


class Halves(Identity):
    """Someone's own value normaliser: the head outputs half the value."""

    def denormalise(self, value, level):
        return 2 * value

    def normalise(self, returns, value, level):
        return returns / 2


class NoNormaliser:
    def __init__(self, config, num_levels):
        pass


class NoRescale(nn.Module):
    """Output layer of someone's own head."""

    def __init__(self, k):
        super().__init__()
        self.linear = nn.Linear(H, k)

    def forward(self, h, level, context):
        return self.linear(h)


def test_names_and_heads_that_do_not_fit():
    assert list(NORMALISERS) == ["none", "popart"]
    spaces = Spaces((24, 28, 3), "uint8", 4, K, instructions=False)
    with pytest.raises(UserError, match=r"agent.value_normaliser='popar': no such entry; there are none, popart"):
        make_normaliser(AgentConfig(value_normaliser="popar"), K)
    own = f"{__name__}:PLAIN"
    with pytest.raises(
        UserError, match=r"value_normaliser='popart' needs an output layer with rescale.*has NoRescale"
    ):
        Agent(AgentConfig(head=own, core_width=H, value_normaliser="popart"), spaces)
    Agent(AgentConfig(head=own, core_width=H), spaces)


def test_normalisers_of_ones_own():
    spaces = Spaces((24, 28, 3), "uint8", 4, K, instructions=False)
    agent = Agent(AgentConfig(core_width=H, value_normaliser=f"{__name__}:Halves"), spaces)
    assert isinstance(agent.normaliser, Halves)
    assert agent.head.value(torch.ones(1, H), None, torch.ones(1, 32)).shape == (1, 1)
    with pytest.raises(UserError, match=r"NoNormaliser': NoNormaliser is no .*ValueNormaliser"):
        make_normaliser(AgentConfig(value_normaliser=f"{__name__}:NoNormaliser"), K)
