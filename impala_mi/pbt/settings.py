"""Configuration of a population: that of a run, with a section `pbt`."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from impala_mi.config import Config, LearnerConfig, load_as
from impala_mi.config_suites import Section
from impala_mi.config_values import Count, NonNegative, Seconds, Whole

Value = float | str
Parameters = dict[str, Value]
"""Hyperparameters of a member, by dotted key."""

CHANGEABLE = tuple(
    f"learner.{name}"
    for name in (
        "learning_rate", "entropy_cost", "epsilon", "value_cost", "max_grad_norm", "discount", "rmsprop_decay",
        "reward_clipping", "rho_clip", "c_clip", "pg_rho_clip", "trace_lambda",
    )
)  # fmt: skip
"""Keys that a learner can change while it runs."""
_MAX_CORNERS = 4096
"""Largest number of combinations of extreme values that are all tried."""


class Parameter(Section):
    """Range of a hyperparameter: one of the first three fields, and optionally `bounds`."""

    log_uniform: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Lower and upper limit of a log-uniform draw at the start; later the value is scaled."""
    choice: Annotated[list[Value], Field(min_length=1)] | None = None
    """Values to choose from, at the start and later; with `bounds` they are numbers and later scaled."""
    fixed: Value | None = None
    """Value of all members."""
    bounds: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Limits of mutations; by default the range of `log_uniform`."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in ("log_uniform", "choice", "fixed") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"one of log_uniform, choice and fixed, not {' and '.join(given) or 'none'}")
        for name, pair in (("log_uniform", self.log_uniform), ("bounds", self.bounds)):
            if pair is not None and not 0 < pair[0] < pair[1]:
                raise ValueError(f"{name}={pair}: must be two numbers above 0, the smaller first")
        if self.choice is not None and len(set(self.choice)) < len(self.choice):
            raise ValueError(f"choice={self.choice}: a value is given twice")
        if self.bounds is not None and self.fixed is not None:
            raise ValueError("bounds: a fixed value has none")
        starts = [v for v in self.log_uniform or self.choice or () if self.bounds is not None]
        if self.bounds is not None and not all(
            isinstance(v, float | int) and self.bounds[0] <= v <= self.bounds[1] for v in starts
        ):
            raise ValueError(f"bounds={self.bounds} do not hold {starts}")
        return self

    @property
    def extremes(self) -> list[Value]:
        """Extreme values that mutations can reach."""
        return [*(self.bounds or self.log_uniform or self.choice or [self.fixed])]


class PbtConfig(Section):
    """Settings of populations; the defaults are those of IMPALA's appendix F."""

    members: Annotated[Count, Field(ge=2)] = 24
    """Members of each population."""
    populations: Count = 1
    """Independent populations: repetitions, for a mean and its confidence interval."""
    concurrent: Count | None = None
    """Members that train at a time; the others wait for their turn. By default all train."""
    slice_s: Seconds = 600.0
    """Seconds of a turn, if members wait."""
    rule: str = "impala"
    """`impala`, `truncation`, or `package.module:function` that takes this section and returns a `Rule`."""
    burn_in_frames: Annotated[Whole, Field(ge=0)] = 20_000_000
    """Frames of a member before its first decision."""
    ready_episodes: Count = 5_000
    """Episodes of a member from one decision to the next, all levels together."""
    least_episodes: Count = 10
    """Episodes of every level that a member's fitness needs, in the window of `train.score_episodes`. The window is
    empty after a copy, and the first episodes to end were started by other weights: set it above the number of
    environments per level."""
    threshold: NonNegative = 5.0
    """`impala`: points of the score by which a donor must be better."""
    fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """`truncation`: share of the population that copies, and share that is copied."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.33
    """Probability with which each hyperparameter changes."""
    factor: Annotated[float, Field(gt=1)] = 1.2
    """Factor by which a hyperparameter is multiplied or divided."""
    max_deaths_in_a_row: Count = 3
    """Deaths in a row without a checkpoint between them after which a member is given up."""
    space: Annotated[dict[str, Parameter], Field(min_length=1)]
    """Hyperparameters that differ between members, by dotted key."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in self.space:
            if key not in CHANGEABLE:
                raise ValueError(
                    f"space: {key!r} is not a parameter that a running learner can change: {', '.join(CHANGEABLE)}"
                )
        if not any(p.bounds or p.log_uniform or len(p.choice or ()) > 1 for p in self.space.values()):
            raise ValueError("space: every parameter has only one value, so there is nothing to adapt")
        if self.rule == "truncation" and round(self.fraction * self.members) < 1:
            raise ValueError(f"fraction={self.fraction} of members={self.members} is no member")
        if self.concurrent is not None and self.concurrent > self.members * self.populations:
            raise ValueError(
                f"concurrent={self.concurrent}: more than the {self.members * self.populations} members there are"
            )
        return self


class PopulationConfig(Config):
    """Configuration of a run, common to all members, and the section of the population."""

    pbt: PbtConfig

    @model_validator(mode="after")
    def _members(self) -> Self:
        if self.train.deterministic:
            raise ValueError("train.deterministic=true: members of a population do not wait for each other")
        if self.run.mirror is not None:
            raise ValueError("run.mirror: populations are not mirrored; put run.root on a shared file system")
        if self.pbt.burn_in_frames >= self.train.env_frames:
            raise ValueError(
                f"pbt.burn_in_frames={self.pbt.burn_in_frames}: no member would ever decide, because each has "
                f"train.env_frames={self.train.env_frames}"
            )
        if self.learner.optimizer == "adam" and "learner.rmsprop_decay" in self.pbt.space:
            raise ValueError("pbt.space: learner.rmsprop_decay has no effect with learner.optimizer=adam")
        if self.pbt.least_episodes > self.train.score_episodes:
            raise ValueError(
                f"pbt.least_episodes={self.pbt.least_episodes}: more than train.score_episodes="
                f"{self.train.score_episodes}, the size of the window"
            )
        self._try_corners()
        return self

    def _try_corners(self) -> None:
        """Raise `ValueError` if the space contains settings that no learner accepts."""
        extremes = {key: parameter.extremes for key, parameter in self.pbt.space.items()}
        if math.prod(map(len, extremes.values())) <= _MAX_CORNERS:
            corners: Iterable[Parameters] = (
                dict(zip(extremes, values, strict=True)) for values in itertools.product(*extremes.values())
            )
        else:  # all pairs of parameters: no check of the configuration involves three
            first = {key: values[0] for key, values in extremes.items()}
            corners = (
                first | {a: x, b: y}
                for a, b in itertools.combinations(extremes, 2)
                for x, y in itertools.product(extremes[a], extremes[b])
            )
        for parameters in corners:
            try:
                self.member(parameters)
            except ValidationError as e:
                error = e.errors()[0]
                key = ".".join(["learner", *(str(p) for p in error["loc"])])
                reason = error["msg"].removeprefix("Value error, ")
                at = f"{key}={parameters[key]!r}: {reason}" if key in parameters else f"{parameters}: {reason}"
                raise ValueError(f"pbt.space: {at}") from None

    def member(self, parameters: Mapping[str, Value], seed: int | None = None) -> Config:
        """Configuration of a member; raises pydantic's `ValidationError`."""
        changed = {key.removeprefix("learner."): value for key, value in parameters.items()}
        learner = LearnerConfig.model_validate(self.learner.model_dump() | changed)
        values = {name: getattr(self, name) for name in Config.model_fields}
        return Config.model_construct(**values | {"learner": learner, "seed": self.seed if seed is None else seed})

    def seed_of(self, population: int, index: int) -> int:
        """Seed of a member."""
        return int(np.random.SeedSequence([self.seed, population, index]).generate_state(1)[0]) >> 1


def load(path: str, overrides: Sequence[str] = ()) -> PopulationConfig:
    """Load a population's configuration; see `config.load`."""
    return load_as(PopulationConfig, path, overrides)
