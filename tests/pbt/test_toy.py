"""PBT on a problem whose best schedule is known: stochastic gradient descent on a noisy parabola.

With the rate h the expected loss v becomes (1 - h)^2 v + h^2 s: the best rate falls with time, h = v / (v + s), and
no fixed one comes near it. Nothing is random but the rules' own draws.
"""

import math

import numpy as np
import pytest

from impala_mi.pbt.exploit import Ranking, decide, make_rule
from impala_mi.pbt.explore import sample
from impala_mi.pbt.settings import PbtConfig

KEY, NOISE, STEPS, EVERY = "learner.learning_rate", 1.0, 600, 20


def step(loss, rate):
    return (1 - rate) ** 2 * loss + rate**2 * NOISE


def after(rate, steps):
    loss = 1.0
    for _ in range(steps):
        loss = step(loss, rate)
    return loss


def fitness(loss):
    return -100 * math.log10(loss)


def train(config, seed):
    """The least loss of a population, and of its first members had they kept their rates."""
    rule = make_rule(config)
    first = [sample(config.space, np.random.default_rng([seed, i])) for i in range(config.members)]
    members = {str(i): [1.0, dict(parameters)] for i, parameters in enumerate(first)}
    copies = 0
    for time in range(EVERY, STEPS + 1, EVERY):
        for index, (name, member) in enumerate(members.items()):
            for _ in range(EVERY):
                member[0] = step(member[0], member[1][KEY])
            standings = [Ranking(n, time, EVERY, fitness(loss), p) for n, (loss, p) in members.items()]
            me = standings[index]
            if not rule.ready(me):
                continue
            others = [s for s in standings if s is not me]
            decision = decide(rule, me, others, config.space, [seed, index, time])
            if decision.donor is not None:
                member[0], copies = members[decision.donor][0], copies + 1
            members[name][1] = decision.after
    return min(loss for loss, _ in members.values()), min(after(p[KEY], STEPS) for p in first), copies


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", ["impala", "truncation"])
def test_pbt_beats_the_best_fixed_rate_of_its_own_first_members(rule, seed):
    config = PbtConfig.model_validate({
        "members": 8, "rule": rule, "burn_in_frames": 20, "ready_episodes": EVERY, "fraction": 0.5,
        "probability": 1.0, "factor": 1.5, "space": {KEY: {"log_uniform": [1e-3, 0.9]}},
    })  # fmt: skip
    best, fixed, copies = train(config, seed)
    ideal = 1 / (1 + STEPS / NOISE)
    assert copies >= 8
    assert ideal <= best < 0.8 * fixed
