import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impala_mi.losses.rewards import clip_rewards
from impala_mi.losses.vtrace import vtrace

CLIPS = [
    {},
    {"rho_clip": 3.7, "c_clip": 2.2, "pg_rho_clip": 1.7},
    {"trace_lambda": 0.9},
    {"rho_clip": 1.0, "c_clip": 0.3, "pg_rho_clip": 2.0, "trace_lambda": 0.0},
]


def problem(t=9, b=6, spread=2.0, seed=0):
    """A batch with ends inside; spread is how far off-policy the logarithms of the ratios are."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    terminated = torch.rand(t, b, generator=rng) < 0.15
    truncated = (torch.rand(t, b, generator=rng) < 0.15) & ~terminated
    return {
        "log_rhos": spread * randn(t, b),
        "discounts": 0.97 * (~terminated).double(),
        "rewards": randn(t, b),
        "values": randn(t, b),
        "next_values": randn(t, b),  # free: V(x'), which at a truncation is not the next row's value
        "ends": terminated | truncated,
    }


def definition(log_rhos, discounts, rewards, values, next_values, ends,
               rho_clip=1.0, c_clip=1.0, pg_rho_clip=1.0, trace_lambda=1.0):  # fmt: skip
    """The sum of equation 1 term by term, O(T^2), in plain Python."""
    steps, columns = rewards.shape
    ratio = log_rhos.exp()
    vs, advantages = torch.zeros_like(values), torch.zeros_like(values)
    for b in range(columns):
        for s in range(steps):
            total, product = float(values[s, b]), 1.0
            for t in range(s, steps):
                rho = min(rho_clip, float(ratio[t, b]))
                delta = rho * float(rewards[t, b] + discounts[t, b] * next_values[t, b] - values[t, b])
                total += product * delta
                if ends[t, b]:
                    break
                product *= float(discounts[t, b]) * trace_lambda * min(c_clip, float(ratio[t, b]))
            vs[s, b] = total
        for s in range(steps):
            following = next_values[s, b] if s == steps - 1 or ends[s, b] else vs[s + 1, b]
            q = rewards[s, b] + discounts[s, b] * following
            advantages[s, b] = min(pg_rho_clip, float(ratio[s, b])) * (q - values[s, b])
    return vs, advantages


def consistent(p):
    """Make V(x') the next row's value inside episodes, as in an unroll."""
    inner = ~p["ends"][:-1]
    p["next_values"][:-1] = torch.where(inner, p["values"][1:], p["next_values"][:-1])
    return p


@pytest.mark.parametrize("clips", CLIPS)
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_equals_the_definition(clips, spread):
    p = consistent(problem(spread=spread))
    got = vtrace(**p, **clips)
    vs, advantages = definition(**p, **clips)
    torch.testing.assert_close(got.vs, vs)
    torch.testing.assert_close(got.advantages, advantages)


def test_on_policy_targets_are_n_step_returns():
    t, gamma = 5, 0.9
    zeros = torch.zeros(t, 1, dtype=torch.float64)
    rewards, values, bootstrap = torch.arange(1.0, 6.0).double()[:, None], torch.randn(t, 1).double(), 7.0
    nexts = torch.cat([values[1:], torch.full((1, 1), bootstrap).double()])
    got = vtrace(zeros, zeros + gamma, rewards, values, nexts, zeros.bool())
    want = bootstrap
    for s in reversed(range(t)):
        want = float(rewards[s]) + gamma * want
        assert got.vs[s].item() == pytest.approx(want)
        assert got.advantages[s].item() == pytest.approx(want - float(values[s]))


@given(cut=st.integers(1, 8), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_a_split_at_an_end_changes_nothing(cut, seed):
    """What comes after the end of an episode never reaches what was before it."""
    p = consistent(problem(seed=seed))
    p["ends"][cut - 1] = True
    whole = vtrace(**p)
    first, second = vtrace(**{k: v[:cut] for k, v in p.items()}), vtrace(**{k: v[cut:] for k, v in p.items()})
    torch.testing.assert_close(whole.vs, torch.cat([first.vs, second.vs]))
    torch.testing.assert_close(whole.advantages, torch.cat([first.advantages, second.advantages]))


@given(cut=st.integers(1, 8), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_a_split_unroll_with_the_targets_as_bootstrap_changes_nothing(cut, seed):
    """On-policy, v of the cut's first row is what the first part needs to bootstrap from."""
    p = consistent(problem(spread=0.0, seed=seed))
    whole = vtrace(**p)
    first = {k: v[:cut].clone() for k, v in p.items()}
    first["next_values"][-1] = torch.where(first["ends"][-1], first["next_values"][-1], whole.vs[cut])
    torch.testing.assert_close(vtrace(**first).vs, whole.vs[:cut])


def test_a_truncated_step_bootstraps_from_its_own_final_observation():
    """V(x_t) = 0, r = 0, gamma = 1, V(final) = 1, next episode's V = 100: the target is 1, not 100 (and not 0)."""
    one = torch.ones(2, 1)
    p = {
        "log_rhos": 0 * one,
        "discounts": one,
        "rewards": 0 * one,
        "values": torch.tensor([[0.0], [100.0]]),
        "next_values": torch.tensor([[1.0], [100.0]]),
        "ends": torch.tensor([[True], [False]]),
    }
    got = vtrace(**p)
    assert got.vs[0].item() == 1.0
    assert got.advantages[0].item() == 1.0
    terminated = vtrace(**{**p, "discounts": torch.tensor([[0.0], [1.0]])})
    assert terminated.vs[0].item() == 0.0


def test_no_gradient_passes():
    p = problem()
    p["values"].requires_grad_()
    p["log_rhos"].requires_grad_()
    got = vtrace(**p)
    assert not got.vs.requires_grad
    assert not got.advantages.requires_grad


@pytest.mark.slow
def test_shapes_are_checked():
    p = problem()
    p["rewards"] = p["rewards"][:-1]
    with pytest.raises(Exception, match="rewards"):
        vtrace(**p)


@pytest.mark.parametrize(
    ("mode", "want"),
    [
        ("none", [-10.0, -0.5, 0.0, 0.5, 10.0]),
        ("abs_one", [-1.0, -0.5, 0.0, 0.5, 1.0]),
        ("soft_asymmetric", [-1.4460414, -0.1495019, 0.0, 0.4983400, 4.8201379]),
    ],
)
def test_reward_clipping(mode, want):
    rewards = torch.tensor([[-10.0], [-0.5], [0.0], [0.5], [10.0]])
    torch.testing.assert_close(clip_rewards(rewards, mode)[:, 0], torch.tensor(want))
    with pytest.raises(ValueError, match="unknown"):
        clip_rewards(rewards, "soft")
