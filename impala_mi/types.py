"""The contract between actors, learner and agent.

Letters of shapes, used everywhere:

    T  agent steps in an unroll          K  levels (tasks)
    B  unrolls in a batch                L  tokens of an instruction
    E  environments in an actor          H  width of the core
    A  actions                           C  width of the context
    F  truncated steps in a batch        N  any batch

Time comes first: [T, B, ...]. For t = 0..T-1 an unroll holds the observation x_t, the action a_{t-1} and the
reward r_{t-1} that led to it, `first_t` (x_t starts an episode: the core is reset before it), the action a_t
with the behaviour policy's logits mu(.|x_t), and the reward r_t and the end that a_t brought. Row T holds x_T
for the bootstrap and is row 0 of the next unroll: no transition is lost or used twice. The action and reward
before the first observation of an episode are zeros (no action is encoded as -1).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

Batch = TypeVar("Batch", bound=tuple[Any, ...])

Weights = dict[str, np.ndarray]
"""The agent's weights by parameter name, as the learner publishes them."""

NO_ACTION = -1
NO_TOKEN = -1


@dataclass(frozen=True)
class Spaces:
    """What an agent sees and does, common to all levels of a suite."""

    frame_shape: tuple[int, ...]
    """[height, width, channels] uint8, or [features] float32."""
    frame_dtype: str
    num_actions: int
    num_levels: int
    instructions: bool
    """Whether levels give instructions in words."""


class Instructions(NamedTuple):
    """The distinct instructions of a batch, and which of them each step has."""

    tokens: Any
    """[L, S] int64, 0 behind the last word."""
    last: Any
    """[S] int64, the last word's index; 0 where there is none."""
    there: Any
    """[S] bool: there are words."""
    which: Any
    """[T, B] int64."""


class AgentInput(NamedTuple):
    """What the agent sees; NumPy arrays in an actor, tensors in the network.

    `tokens` and `first` stay in host memory when the rest goes to a GPU, as do the places and tokens of
    `FinalObservations`: control flow depends on them. Padded batches (`batching.pad_to_buckets`) move as a whole.
    """

    frame: Any
    """[T, B, *frame_shape] uint8 or float32."""
    tokens: Any
    """[T, B, L] int32 hash buckets of the instruction's words, NO_TOKEN behind the last; or `Instructions`."""
    last_action: Any
    """[T, B] int64, NO_ACTION at the start of an episode."""
    last_reward: Any
    """[T, B] float32, scaled by the level, unclipped."""
    first: Any
    """[T, B] bool."""
    level: Any
    """[T, B] int64 index of the level, or None where the task is not told."""


class CoreState(NamedTuple):
    """The core's state: hidden and cell, [B, H] each."""

    hidden: Any
    cell: Any


class FinalObservations(NamedTuple):
    """The final observations of episodes that were cut off, not ended (F of them in an unroll)."""

    time: Any
    """[F] int64, the step t that was truncated."""
    column: Any
    """[F] int64, its environment in the unroll."""
    frame: Any
    """[F, *frame_shape]."""
    tokens: Any
    """[F, L], or `Instructions` of [1, F]."""


class Transitions(NamedTuple):
    """The part of an unroll that the learner computes with; see the module's docstring for the alignment."""

    inputs: AgentInput
    """[T+1, B, ...]."""
    action: Any
    """[T, B] int64."""
    logits: Any
    """[T, B, A] float32, of the behaviour policy."""
    reward: Any
    """[T, B] float32, scaled by the level, unclipped."""
    terminated: Any
    """[T, B] bool: the episode ended, nothing follows."""
    truncated: Any
    """[T, B] bool: the episode was cut off; its final observation is in `final_observations`."""
    state: CoreState
    """[B, H], before x_0."""
    final_observations: FinalObservations


@dataclass(frozen=True)
class Episode:
    """An episode that ended."""

    level: int
    return_: float
    """Sum of the unscaled, unclipped rewards."""
    length: int
    """Agent steps."""


@dataclass(frozen=True)
class Fault:
    """A game that died, hung or failed, and cost an episode."""

    seed: int
    """Of the episode."""
    kind: str
    """crash, hang or error."""
    message: str


@dataclass(frozen=True)
class EnvStats:
    """What an environment did beside stepping, since it was last asked."""

    level: int
    reset_s: list[float] = field(default_factory=list)
    """Seconds of each reset, restarts of the game included."""
    faults: list[Fault] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """What the game counts, hits of a cache for example."""


@dataclass(frozen=True)
class RolloutInfo:
    """What the driver needs to know of an actor's unrolls without fetching them."""

    actor: int
    version: int
    """Updates behind the weights that acted."""
    episodes: list[Episode] = field(default_factory=list)
    env_stats: list[EnvStats] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds of the process and wall seconds by stage."""


@dataclass(frozen=True)
class Rollout:
    """E unrolls of one actor."""

    info: RolloutInfo
    data: Transitions


@dataclass(frozen=True)
class RolloutPreview:
    """An unroll of one environment, to look at."""

    level: int
    frames: np.ndarray | None
    """[at most 16, h, w, c] uint8, evenly over the unroll; None where observations are vectors."""
    vectors: dict[str, np.ndarray]
    """[T+1, D] float32: `context` and the generated weights of `policy` and `value`, where the head has them."""


def map_arrays(batch: Batch, function: Callable[[Any], Any]) -> Batch:
    """The same nested tuples with `function` of every array or tensor; None stays."""

    def mapped(value: Any) -> Any:
        if isinstance(value, tuple):
            return type(value)(*map(mapped, value))
        return None if value is None else function(value)

    result: Batch = mapped(batch)
    return result


def transitions_buffer(spaces: Spaces, steps: int, width: int, tokens: int, core: int) -> Transitions:
    """Preallocated NumPy arrays: `steps` steps of `width` environments, no final observations."""
    t, e = steps, width
    return Transitions(
        inputs=AgentInput(
            frame=np.zeros((t + 1, e, *spaces.frame_shape), spaces.frame_dtype),
            tokens=np.full((t + 1, e, tokens if spaces.instructions else 0), NO_TOKEN, np.int32),
            last_action=np.full((t + 1, e), NO_ACTION, np.int64),
            last_reward=np.zeros((t + 1, e), np.float32),
            first=np.zeros((t + 1, e), bool),
            level=np.zeros((t + 1, e), np.int64),
        ),
        action=np.zeros((t, e), np.int64),
        logits=np.zeros((t, e, spaces.num_actions), np.float32),
        reward=np.zeros((t, e), np.float32),
        terminated=np.zeros((t, e), bool),
        truncated=np.zeros((t, e), bool),
        state=CoreState(np.zeros((e, core), np.float32), np.zeros((e, core), np.float32)),
        final_observations=FinalObservations(
            time=np.zeros(0, np.int64),
            column=np.zeros(0, np.int64),
            frame=np.zeros((0, *spaces.frame_shape), spaces.frame_dtype),
            tokens=np.zeros((0, tokens if spaces.instructions else 0), np.int32),
        ),
    )
