"""How hyperparameters begin and change."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.pbt.explore import perturb, sample
from impala_mi.pbt.settings import Parameter

SPACE = {
    "rate": Parameter(log_uniform=[1e-5, 1e-2]),
    "epsilon": Parameter(choice=[1e-1, 1e-3, 1e-5, 1e-7], bounds=[1e-8, 1.0]),
    "clipping": Parameter(choice=["none", "abs_one", "soft_asymmetric"]),
    "discount": Parameter(fixed=0.99),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def test_first_values_are_log_uniform_and_from_the_choices():
    drawn = [sample(SPACE, rng(seed)) for seed in range(400)]
    logs = np.array([math.log10(d["rate"]) for d in drawn])
    assert logs.min() >= -5
    assert logs.max() <= -2
    assert np.mean(logs) == pytest.approx(-3.5, abs=0.15)
    assert {d["epsilon"] for d in drawn} == {1e-1, 1e-3, 1e-5, 1e-7}
    assert {d["clipping"] for d in drawn} == {"none", "abs_one", "soft_asymmetric"}
    assert {d["discount"] for d in drawn} == {0.99}


@given(st.integers(0, 2**31), st.floats(1e-5, 1e-2), st.floats(1.01, 10), st.integers(1, 40))
def test_no_mutation_leaves_the_bounds(seed, rate, factor, times):
    values = sample(SPACE, rng(seed)) | {"rate": rate}
    for step in range(times):
        values = perturb(SPACE, values, 1.0, factor, rng(seed + step))
        assert 1e-5 <= values["rate"] <= 1e-2
        assert 1e-8 <= values["epsilon"] <= 1.0
        assert values["discount"] == 0.99


def test_a_mutation_multiplies_or_divides():
    values = {"rate": 1e-3, "epsilon": 1e-3, "clipping": "none", "discount": 0.99}
    got = [perturb(SPACE, values, 1.0, 1.2, rng(seed)) for seed in range(50)]
    assert {round(g["rate"], 9) for g in got} == {round(1.2e-3, 9), round(1e-3 / 1.2, 9)}
    assert {g["clipping"] for g in got} == {"abs_one", "soft_asymmetric"}


def test_each_parameter_changes_with_the_probability():
    values = {"rate": 1e-3, "epsilon": 1e-3, "clipping": "none", "discount": 0.99}
    got = [perturb(SPACE, values, 0.33, 1.2, rng(seed)) for seed in range(600)]
    for key in ("rate", "epsilon", "clipping"):
        assert np.mean([g[key] != values[key] for g in got]) == pytest.approx(0.33, abs=0.06)
    assert [perturb(SPACE, values, 0.0, 1.2, rng(seed)) for seed in range(5)] == [values] * 5
