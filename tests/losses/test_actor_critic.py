import math

import pytest
import torch
from torch.nn import functional as F

from impala_mi.config import LearnerConfig
from impala_mi.losses import LOSSES, Loss, actor_critic_loss, loss_inputs, total_loss
from impala_mi.losses.vtrace import vtrace
from impala_mi.nn.distributions import Categorical
from impala_mi.nn.value_normaliser import Identity
from impala_mi.types import Spaces, transitions_buffer

T, B, A = 6, 3, 4


def tensors(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(T, B, A, generator=rng).requires_grad_(),
        "values": torch.randn(T, B, generator=rng).requires_grad_(),
        "next_values": torch.randn(T, B, generator=rng).requires_grad_(),
        "action": torch.randint(0, A, (T, B), generator=rng),
        "behaviour_logits": torch.randn(T, B, A, generator=rng),
        "reward": torch.randn(T, B, generator=rng),
        "terminated": torch.rand(T, B, generator=rng) < 0.2,
    }


def inputs_of(b, normaliser=None, **changes):
    """Inputs of a loss, of the tensors above."""
    config = LearnerConfig(**{"reward_clipping": "none", **changes})
    batch = transitions_buffer(Spaces((1,), "float32", A, 1, False), T, B, 0)._replace(
        action=b["action"], logits=b["behaviour_logits"], reward=b["reward"], terminated=b["terminated"],
        truncated=torch.zeros(T, B, dtype=torch.bool),
    )  # fmt: skip
    batch = batch._replace(inputs=batch.inputs._replace(level=torch.zeros(T + 1, B, dtype=torch.long)))
    normaliser = normaliser or Identity()
    values = normaliser.denormalise(b["values"], None)
    return loss_inputs(
        config, batch, Categorical(b["logits"]), Categorical(b["behaviour_logits"]), values, b["values"],
        b["next_values"], torch.zeros(T, B, 2), normaliser,
    )  # fmt: skip


def test_parts_add_up_with_their_costs():
    for reduction, steps in (("sum", T * B), ("mean", 1)):
        loss = actor_critic_loss(inputs_of(tensors(), entropy_cost=0.3, value_cost=0.7, loss_reduction=reduction))
        parts = {k: loss.scalars[f"loss/{k}"] for k in ("policy", "value", "entropy")}
        total = parts["policy"] + 0.7 * parts["value"] - 0.3 * parts["entropy"]
        torch.testing.assert_close(loss.total.detach(), steps * total)
        assert not any(scalar.requires_grad for scalar in loss.scalars.values())


def test_mean_is_the_sum_over_t_and_b():
    b = tensors()
    total, mean = (actor_critic_loss(inputs_of(b, loss_reduction=r)) for r in ("sum", "mean"))
    torch.testing.assert_close(total.total / (T * B), mean.total)
    assert total.scalars.keys() == mean.scalars.keys()
    for name, scalar in total.scalars.items():
        torch.testing.assert_close(scalar, mean.scalars[name])


def test_gradients_are_the_textbooks():
    b = tensors()
    actor_critic_loss(inputs_of(b, entropy_cost=0.0, value_cost=0.0)).total.backward()
    log_pi = F.log_softmax(b["logits"].detach(), -1)
    log_mu = F.log_softmax(b["behaviour_logits"], -1)
    index = b["action"].unsqueeze(-1)
    log_rhos = (log_pi - log_mu).gather(-1, index).squeeze(-1)
    advantages = vtrace(
        log_rhos, 0.99 * (~b["terminated"]).float(), b["reward"], b["values"].detach(),
        b["next_values"].detach(), b["terminated"],
    ).advantages  # fmt: skip
    expected = -advantages.unsqueeze(-1) * (F.one_hot(b["action"], A) - log_pi.exp())
    torch.testing.assert_close(b["logits"].grad, expected)
    assert b["values"].grad is None or not b["values"].grad.any()
    assert b["next_values"].grad is None


def test_entropy_is_at_most_that_of_the_uniform_policy():
    b = tensors()
    b["reward"].zero_()
    assert actor_critic_loss(inputs_of(b, value_cost=0.0)).scalars["loss/entropy"] < math.log(A)
    uniform = actor_critic_loss(inputs_of(b | {"logits": torch.zeros(T, B, A)})).scalars
    assert uniform["loss/entropy"].item() == pytest.approx(math.log(A), rel=1e-5)


def test_the_divergence_from_the_behaviour_policy():
    b = tensors()
    scalars = actor_critic_loss(inputs_of(b)).scalars
    p, q = b["behaviour_logits"].log_softmax(-1), b["logits"].detach().log_softmax(-1)
    torch.testing.assert_close(scalars["learner/policy_kl"], (p.exp() * (p - q)).sum(-1).mean())
    same = actor_critic_loss(inputs_of(b | {"behaviour_logits": b["logits"].detach()})).scalars
    assert same["learner/policy_kl"].item() == pytest.approx(0, abs=1e-6)
    assert same["learner/rho_mean"].item() == pytest.approx(1)


def test_another_loss_is_a_function_and_a_line(monkeypatch):
    def auxiliary(inputs):
        penalty = inputs.reduce(inputs.values.square())
        return Loss(0.25 * penalty, {"loss/auxiliary": inputs.per_step(penalty).detach()})

    b = tensors()
    alone = total_loss(inputs_of(b))
    monkeypatch.setitem(LOSSES, "auxiliary", auxiliary)
    both = total_loss(inputs_of(b))
    squares = b["values"].detach().square()
    torch.testing.assert_close(both.total - alone.total, 0.25 * squares.sum())
    torch.testing.assert_close(both.scalars["loss/auxiliary"], squares.mean())
    torch.testing.assert_close(both.scalars["loss/total"], both.total.detach() / (T * B))
    assert list(both.scalars)[: len(alone.scalars)] == list(alone.scalars)


class Affine(Identity):
    """Value normaliser of returns with mean 3 and standard deviation 2."""

    def denormalise(self, value, level):
        return 3 + 2 * value

    def normalise(self, returns, value, level):
        return (returns - 3) / 2

    def scale(self, advantages, level):
        return advantages / 2


def test_a_value_normaliser_changes_the_scale_of_the_loss_alone():
    """A head of normalised values learns as one of plain values whose errors and advantages are halved."""
    b = tensors()
    normalised = actor_critic_loss(inputs_of(b, Affine(), entropy_cost=0.0)).scalars
    plain = actor_critic_loss(inputs_of(b | {"values": 3 + 2 * b["values"].detach()}, entropy_cost=0.0)).scalars
    torch.testing.assert_close(normalised["loss/value"], plain["loss/value"] / 4)
    torch.testing.assert_close(normalised["loss/policy"], plain["loss/policy"] / 2)
