import pytest
import torch
from torch.nn import functional as F

from impala_mi.config import LearnerConfig
from impala_mi.losses.actor_critic import actor_critic_loss

T, B, A = 6, 3, 4


def batch(seed=0):
    rng = torch.Generator().manual_seed(seed)
    terminated = torch.rand(T, B, generator=rng) < 0.2
    return {
        "logits": torch.randn(T, B, A, generator=rng).requires_grad_(),
        "values": torch.randn(T, B, generator=rng).requires_grad_(),
        "next_values": torch.randn(T, B, generator=rng).requires_grad_(),
        "actions": torch.randint(0, A, (T, B), generator=rng),
        "behaviour_logits": torch.randn(T, B, A, generator=rng),
        "rewards": torch.randn(T, B, generator=rng),
        "terminated": terminated,
        "truncated": torch.zeros(T, B, dtype=torch.bool),
    }


def config(**changes) -> LearnerConfig:
    return LearnerConfig(**{"reward_clipping": "none", **changes})


def test_parts_add_up_with_their_costs():
    loss = actor_critic_loss(config(entropy_cost=0.3, value_cost=0.7), **batch())
    torch.testing.assert_close(loss.total, loss.policy + 0.7 * loss.value - 0.3 * loss.entropy)


def test_mean_is_the_sum_over_t_and_b():
    b = batch()
    total, mean = (actor_critic_loss(config(loss_reduction=r), **b).total for r in ("sum", "mean"))
    torch.testing.assert_close(total / (T * B), mean)


def test_gradients_are_the_textbooks():
    b = batch()
    actor_critic_loss(config(entropy_cost=0.0, value_cost=0.0), **b).total.backward()
    from impala_mi.losses.vtrace import vtrace

    log_pi = F.log_softmax(b["logits"].detach(), -1)
    log_mu = F.log_softmax(b["behaviour_logits"], -1)
    index = b["actions"].unsqueeze(-1)
    log_rhos = (log_pi - log_mu).gather(-1, index).squeeze(-1)
    advantages = vtrace(
        log_rhos, 0.99 * (~b["terminated"]).float(), b["rewards"], b["values"].detach(),
        b["next_values"].detach(), b["terminated"],
    ).advantages  # fmt: skip
    want = -advantages.unsqueeze(-1) * (F.one_hot(b["actions"], A) - log_pi.exp())
    torch.testing.assert_close(b["logits"].grad, want)
    assert b["values"].grad is None or not b["values"].grad.any()
    assert b["next_values"].grad is None


def test_entropy_alone_flattens_the_policy():
    b = batch()
    b["rewards"].zero_()
    loss = actor_critic_loss(config(value_cost=0.0), **b)
    assert loss.entropy.item() <= T * B * torch.log(torch.tensor(float(A))).item()
    uniform = actor_critic_loss(config(), **{**b, "logits": torch.zeros(T, B, A)})
    assert uniform.entropy.item() == pytest.approx(T * B * torch.log(torch.tensor(float(A))).item(), rel=1e-5)
