"""First values and mutations of hyperparameters: pure functions of a space and a random generator."""

import math
from collections.abc import Mapping

import numpy as np

from impala_mi.pbt.settings import Parameter, Parameters, Value

Space = Mapping[str, Parameter]


def sample(space: Space, rng: np.random.Generator) -> Parameters:
    """First hyperparameters of a member."""
    return {key: _draw(parameter, rng) for key, parameter in space.items()}


def _draw(parameter: Parameter, rng: np.random.Generator) -> Value:
    if parameter.log_uniform is not None:
        low, high = parameter.log_uniform
        return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)
    if parameter.choice is not None:
        return parameter.choice[int(rng.integers(len(parameter.choice)))]
    assert parameter.fixed is not None
    return parameter.fixed


def perturb(
    space: Space, parameters: Mapping[str, Value], probability: float, factor: float, rng: np.random.Generator
) -> Parameters:
    """Multiply or divide each parameter by `factor` with `probability`, within its bounds (IMPALA, appendix F).

    A choice without bounds becomes another of its values; a fixed parameter stays.
    """
    return {
        key: _change(parameter, parameters[key], factor, rng) if rng.random() < probability else parameters[key]
        for key, parameter in space.items()
    }


def _change(parameter: Parameter, value: Value, factor: float, rng: np.random.Generator) -> Value:
    bounds = parameter.bounds or parameter.log_uniform
    if bounds is not None:
        scaled = float(value) * factor ** (1 if rng.random() < 0.5 else -1)
        return min(max(scaled, bounds[0]), bounds[1])
    alternatives = [v for v in parameter.choice or () if v != value]
    return alternatives[int(rng.integers(len(alternatives)))] if alternatives else value
