"""The configuration of a population: that of a run, and a section `pbt`."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from impala_mi.config import Config, Count, LearnerConfig, NonNegative, Seconds, Section, Whole, load_as

Value = float | str
Parameters = dict[str, Value]
"""Of a member, by dotted key."""

CHANGEABLE = tuple(
    f"learner.{name}"
    for name in (
        "learning_rate", "entropy_cost", "epsilon", "value_cost", "max_grad_norm", "discount", "rmsprop_decay",
        "reward_clipping", "rho_clip", "c_clip", "pg_rho_clip", "trace_lambda",
    )
)  # fmt: skip
"""What a learner can change while it runs."""
_MOST_CORNERS = 4096


class Parameter(Section):
    """What a hyperparameter may be: one of the first three, and `bounds` if they are others than those."""

    log_uniform: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Drawn so at the start, later scaled."""
    choice: Annotated[list[Value], Field(min_length=1)] | None = None
    """One of these, at the start and later; with `bounds` they are numbers and scaled later."""
    fixed: Value | None = None
    """The same for all."""
    bounds: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """No mutation leaves them; of `log_uniform` its own range, if they are not given."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in ("log_uniform", "choice", "fixed") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"one of log_uniform, choice and fixed, not {' and '.join(given) or 'none'}")
        for name, pair in (("log_uniform", self.log_uniform), ("bounds", self.bounds)):
            if pair is not None and not 0 < pair[0] < pair[1]:
                raise ValueError(f"{name}={pair}: two numbers above 0, the smaller first")
        if self.choice is not None and len(set(self.choice)) < len(self.choice):
            raise ValueError(f"choice={self.choice}: a value is given twice")
        if self.bounds is not None and self.fixed is not None:
            raise ValueError("bounds of a fixed value")
        starts = [v for v in self.log_uniform or self.choice or () if self.bounds is not None]
        if self.bounds is not None and not all(
            isinstance(v, float | int) and self.bounds[0] <= v <= self.bounds[1] for v in starts
        ):
            raise ValueError(f"bounds={self.bounds} do not hold {starts}")
        return self

    @property
    def extremes(self) -> list[Value]:
        """Of what it may become."""
        return [*(self.bounds or self.log_uniform or self.choice or [self.fixed])]


class PbtConfig(Section):
    """The population; the defaults are those of IMPALA's appendix F."""

    members: Annotated[Count, Field(ge=2)] = 24
    """Of each population."""
    populations: Count = 1
    """That know nothing of each other: repetitions, for a mean and its confidence."""
    concurrent: Count | None = None
    """Members that train at a time; the others wait with a checkpoint for their turn. By default all train."""
    slice_s: Seconds = 600.0
    """A turn, where members wait."""
    rule: str = "impala"
    """`impala`, `truncation`, or `package.module:function` that takes this section and returns a `Rule`."""
    burn_in_frames: Annotated[Whole, Field(ge=0)] = 20_000_000
    """Frames of a member before its first decision."""
    ready_episodes: Count = 5_000
    """Episodes of a member from one decision to the next, all levels together."""
    least_episodes: Count = 10
    """Of every level, in the window of `train.score_episodes`, for a member to have a fitness. The window is empty
    after a copy, and the first episodes to end were begun by other weights: more than a level has environments."""
    threshold: NonNegative = 5.0
    """`impala`: points of the score by which another must be better to be copied."""
    fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """`truncation`: of the population, the worst copy from the best."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.33
    """With which each parameter is changed."""
    factor: Annotated[float, Field(gt=1)] = 1.2
    """By which it is multiplied or divided."""
    max_deaths_in_a_row: Count = 3
    """A member that dies so often without a checkpoint between is given up, the others go on."""
    space: Annotated[dict[str, Parameter], Field(min_length=1)]
    """The hyperparameters that differ, by dotted key."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in self.space:
            if key not in CHANGEABLE:
                raise ValueError(
                    f"space: {key!r} is not a parameter that a running learner can change: {', '.join(CHANGEABLE)}"
                )
        if not any(p.bounds or p.log_uniform or len(p.choice or ()) > 1 for p in self.space.values()):
            raise ValueError("space: every parameter has one value only, so that there is nothing to adapt")
        if self.rule == "truncation" and round(self.fraction * self.members) < 1:
            raise ValueError(f"fraction={self.fraction} of members={self.members} is nobody")
        if self.concurrent is not None and self.concurrent > self.members * self.populations:
            raise ValueError(
                f"concurrent={self.concurrent}: more than the {self.members * self.populations} members there are"
            )
        return self


class PopulationConfig(Config):
    """A run's configuration, common to all members, and the population's."""

    pbt: PbtConfig

    @model_validator(mode="after")
    def _members(self) -> Self:
        if self.train.deterministic:
            raise ValueError("train.deterministic=true: members of a population wait for nobody")
        if self.run.mirror is not None:
            raise ValueError("run.mirror: populations are not copied yet; put run.root on a shared file system")
        if self.pbt.burn_in_frames >= self.train.env_frames:
            raise ValueError(
                f"pbt.burn_in_frames={self.pbt.burn_in_frames}: nobody would ever decide, a member's frames are "
                f"train.env_frames={self.train.env_frames}"
            )
        if self.learner.optimizer == "adam" and "learner.rmsprop_decay" in self.pbt.space:
            raise ValueError("pbt.space: learner.rmsprop_decay is none of learner.optimizer=adam")
        if self.pbt.least_episodes > self.train.score_episodes:
            raise ValueError(
                f"pbt.least_episodes={self.pbt.least_episodes}: more than train.score_episodes="
                f"{self.train.score_episodes}, which are looked at"
            )
        self._try_corners()
        return self

    def _try_corners(self) -> None:
        """Raise `ValueError` where the space holds what no learner can have."""
        extremes = {key: parameter.extremes for key, parameter in self.pbt.space.items()}
        if math.prod(map(len, extremes.values())) <= _MOST_CORNERS:
            corners: Iterable[Parameters] = (
                dict(zip(extremes, values, strict=True)) for values in itertools.product(*extremes.values())
            )
        else:  # what two parameters make of each other; no rule is about three
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
        """The configuration of a member; raises pydantic's `ValidationError`."""
        changed = {key.removeprefix("learner."): value for key, value in parameters.items()}
        learner = LearnerConfig.model_validate(self.learner.model_dump() | changed)
        values = {name: getattr(self, name) for name in Config.model_fields}
        return Config.model_construct(**values | {"learner": learner, "seed": self.seed if seed is None else seed})

    def seed_of(self, population: int, index: int) -> int:
        """A member's own."""
        return int(np.random.SeedSequence([self.seed, population, index]).generate_state(1)[0]) >> 1


def load(path: str, overrides: Sequence[str] = ()) -> PopulationConfig:
    """See `config.load`."""
    return load_as(PopulationConfig, path, overrides)
