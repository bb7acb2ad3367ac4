"""The contract between actors, learner and agent.

Letters of shapes, used everywhere:

    T  agent steps in an unroll          K  levels (tasks)
    B  unrolls in a batch                L  tokens of an instruction
    E  environments in an actor          H  width of the core
    A  discrete actions                  C  width of the context
    P  parameters of a policy            F  truncated steps in a batch
    N  any batch

Time comes first: [T, B, ...]. For t = 0..T-1 an unroll holds the observation x_t, the action a_{t-1} and the
reward r_{t-1} that led to it, `first_t` (x_t starts an episode: the core is reset before it), the action a_t
with the parameters of the behaviour policy mu(.|x_t), and the reward r_t and the end that a_t brought. Row T holds
x_T for the bootstrap value and is row 0 of the next unroll: no transition is lost or used twice. The action and
reward before the first observation of an episode are zeros (a discrete "no action" is encoded as -1).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

Batch = TypeVar("Batch", bound=tuple[Any, ...])

Weights = dict[str, np.ndarray]
"""The agent's weights by parameter name, as the learner publishes them."""

NO_ACTION = -1
"""Encoding of a missing discrete action, before the first observation of an episode."""
NO_TOKEN = -1
"""Padding behind the last token of an instruction."""


@dataclass(frozen=True)
class Discrete:
    """Action space of one choice among `n` actions."""

    n: int
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[str] = "int64"
    no_action: ClassVar[float] = NO_ACTION

    @property
    def num_params(self) -> int:
        """Parameters P of a policy over this space: one logit per action."""
        return self.n

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Uniformly random actions [count]."""
        return rng.integers(self.n, size=count)

    def env_actions(self, actions: np.ndarray) -> list[int]:
        """Actions [N] of the agent as the N arguments of `Game.step`."""
        plain: list[int] = actions.tolist()
        return plain


@dataclass(frozen=True)
class MultiDiscrete:
    """Action space of D independent choices, the d-th among `sizes[d]` actions."""

    sizes: tuple[int, ...]
    dtype: ClassVar[str] = "int64"
    no_action: ClassVar[float] = NO_ACTION

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [D] of an action."""
        return (len(self.sizes),)

    @property
    def num_params(self) -> int:
        """Parameters P of a policy over this space: the logits of all choices."""
        return sum(self.sizes)

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Uniformly random actions [count, D]."""
        return rng.integers(self.sizes, size=(count, len(self.sizes)))

    def env_actions(self, actions: np.ndarray) -> list[np.ndarray]:
        """Actions [N, D] of the agent as the N arguments of `Game.step`."""
        return list(actions)


@dataclass(frozen=True)
class Box:
    """Action space of D bounded real numbers.

    The agent acts with unbounded numbers u; the environment takes low + (high - low) (tanh(u) + 1) / 2.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: ClassVar[str] = "float32"
    no_action: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError unless all ranges are finite and not empty, as 32-bit numbers."""
        with np.errstate(all="ignore"):
            ranges = np.asarray(self.high, np.float32) - np.asarray(self.low, np.float32)
        if not (np.isfinite(ranges) & (ranges > 0)).all():
            raise ValueError(f"bounds {self.low} to {self.high} are not finite ranges")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [D] of an action."""
        return (len(self.low),)

    @property
    def num_params(self) -> int:
        """Parameters P of a policy over this space: a mean and a log standard deviation per number."""
        return 2 * len(self.low)

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Actions [count, D] of the agent that are uniformly random in the environment."""
        return np.arctanh(rng.uniform(-1, 1, (count, len(self.low)))).astype(np.float32)

    def env_actions(self, actions: np.ndarray) -> list[np.ndarray]:
        """Actions [N, D] of the agent as the N arguments of `Game.step`, within the bounds."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return list(np.clip(low + (high - low) * (np.tanh(actions) + 1) / 2, low, high))


ActionSpace = Discrete | MultiDiscrete | Box


@dataclass(frozen=True)
class Spaces:
    """Observations and actions of an agent, common to all levels of a suite."""

    frame_shape: tuple[int, ...]
    """[height, width, channels] uint8, or [features] float32."""
    frame_dtype: str
    num_actions: int
    """Number of discrete actions; not read where `action` is given."""
    num_levels: int
    instructions: bool
    """Whether levels give instructions in words."""
    action: ActionSpace | None = None
    """Action space; by default `Discrete(num_actions)`."""

    @property
    def action_space(self) -> ActionSpace:
        """The action space, `Discrete(num_actions)` by default."""
        return Discrete(self.num_actions) if self.action is None else self.action


class Instructions(NamedTuple):
    """The S distinct instructions of a batch, and the index of each step's instruction."""

    tokens: Any
    """[L, S] int64, 0 behind the last word."""
    last: Any
    """[S] int64, the last word's index; 0 for an empty instruction."""
    not_empty: Any
    """[S] bool, whether the instruction has words."""
    per_step: Any
    """[T, B] int64, the instruction of each step."""


class AgentInput(NamedTuple):
    """Input of the agent; NumPy arrays in an actor, tensors in the network.

    `tokens` and `first` stay in host memory when the rest goes to a GPU, as do the places and tokens of
    `FinalObservations`: control flow depends on them. Padded batches (`batching.pad_to_buckets`) move as a whole.
    """

    frame: Any
    """[T, B, *frame_shape] uint8 or float32."""
    tokens: Any
    """[T, B, L] int32 hash buckets of the instruction's words, NO_TOKEN behind the last; or `Instructions`."""
    last_action: Any
    """[T, B, *action_shape], `no_action` of the action space at the start of an episode."""
    last_reward: Any
    """[T, B] float32, scaled by the level, unclipped."""
    first: Any
    """[T, B] bool."""
    level: Any
    """[T, B] int64 index of the level, or None if the agent is not told the task."""


class LSTMState(NamedTuple):
    """Recurrent state of an LSTM: hidden and cell, [B, H] each."""

    hidden: Any
    cell: Any


RecurrentState = Any
"""Recurrent state of a core: nested tuples of arrays [B, ...], as the core declares them; () if it has none."""


class FinalObservations(NamedTuple):
    """Final observations of the F truncated episodes of an unroll."""

    time: Any
    """[F] int64, step t of the truncation."""
    column: Any
    """[F] int64, column of the environment in the unroll."""
    frame: Any
    """[F, *frame_shape]."""
    tokens: Any
    """[F, L], or `Instructions` of [1, F]."""


NO_FINALS = FinalObservations(None, None, None, None)
"""Placeholder in batches whose final observations are handled apart."""


class Transitions(NamedTuple):
    """Unrolls as the learner reads them; the module's docstring gives the alignment."""

    inputs: AgentInput
    """[T+1, B, ...]."""
    action: Any
    """[T, B, *action_shape]."""
    logits: Any
    """[T, B, P] float32, parameters of the behaviour policy: logits if actions are discrete."""
    reward: Any
    """[T, B] float32, scaled by the level, unclipped."""
    terminated: Any
    """[T, B] bool, the episode ended and nothing follows."""
    truncated: Any
    """[T, B] bool, the episode was cut off; its last observation is in `final_observations`."""
    state: RecurrentState
    """[B, ...], before x_0."""
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
    """A game that crashed, hung or failed, and cost an episode, or that left its bounds, which costs none."""

    seed: int
    """Seed of the episode."""
    kind: str
    """One of crash, hang, error, range."""
    message: str
    output: str = ""
    """The last lines that the game printed, if it has a process of its own."""

    @property
    def costs_episode(self) -> bool:
        """Whether the episode was cut off."""
        return self.kind != "range"


@dataclass(frozen=True)
class EnvStats:
    """Reset times, faults and counters of an environment since they were last read; returns are in `Episode`."""

    level: int
    reset_s: list[float] = field(default_factory=list)
    """Seconds of each reset, restarts of the game included."""
    faults: list[Fault] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Counters of the game, for example cache hits."""


@dataclass(frozen=True)
class RolloutInfo:
    """Summary of a rollout, which the driver reads without fetching the arrays."""

    actor: int
    version: int
    """Version of the weights that acted: the number of applied updates."""
    episodes: list[Episode] = field(default_factory=list)
    env_stats: list[EnvStats] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by stage, and CPU seconds of the process (`cpu`)."""


@dataclass(frozen=True)
class Rollout:
    """Rollout of one actor: an unroll of each of its E environments."""

    info: RolloutInfo
    data: Transitions


@dataclass(frozen=True)
class RolloutPreview:
    """An unroll of one environment, for display."""

    level: int
    frames: np.ndarray | None
    """[at most 16, h, w, c] uint8, evenly spaced over the unroll; None if observations are vectors."""
    vectors: dict[str, np.ndarray]
    """[T+1, D] float32: `context` and the generated weights of `policy` and `value`, if the head has them."""


def _rebuild(template: Any, values: Iterable[Any]) -> Any:
    """Tuple of the template's type: named tuples take their fields, plain tuples an iterable."""
    return type(template)(*values) if hasattr(template, "_fields") else tuple(values)


def map_arrays(batch: Batch, function: Callable[[Any], Any]) -> Batch:
    """Nested tuples like `batch` with `function` applied to every array or tensor; None stays None."""
    return zip_arrays((batch,), lambda arrays: function(arrays[0]))


def zip_arrays(batches: Sequence[Batch], function: Callable[[list[Any]], Any]) -> Batch:
    """Nested tuples with `function` applied to the lists of arrays at the same place in all batches."""

    def zipped(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple):
            return _rebuild(values[0], map(zipped, zip(*values, strict=True)))
        return None if values[0] is None else function(list(values))

    result: Batch = zipped(batches)
    return result


def leaves(batch: Any) -> list[Any]:
    """The arrays or tensors of nested tuples, in order, without None."""
    arrays: list[Any] = []
    map_arrays(batch, arrays.append)
    return arrays


def transitions_buffer(
    spaces: Spaces, steps: int, width: int, tokens: int, state: RecurrentState = ()
) -> Transitions:
    """Preallocated NumPy arrays of `steps` steps of `width` environments, without final observations.

    Args:
        spaces: spaces of the suite.
        steps: T.
        width: E.
        tokens: L; used if the suite gives instructions.
        state: recurrent state [E, ...] whose shapes the buffer takes.
    """
    t, e, action = steps, width, spaces.action_space
    length = tokens if spaces.instructions else 0
    return Transitions(
        inputs=AgentInput(
            frame=np.zeros((t + 1, e, *spaces.frame_shape), spaces.frame_dtype),
            tokens=np.full((t + 1, e, length), NO_TOKEN, np.int32),
            last_action=np.full((t + 1, e, *action.shape), action.no_action, action.dtype),
            last_reward=np.zeros((t + 1, e), np.float32),
            first=np.zeros((t + 1, e), bool),
            level=np.zeros((t + 1, e), np.int64),
        ),
        action=np.zeros((t, e, *action.shape), action.dtype),
        logits=np.zeros((t, e, action.num_params), np.float32),
        reward=np.zeros((t, e), np.float32),
        terminated=np.zeros((t, e), bool),
        truncated=np.zeros((t, e), bool),
        state=map_arrays(state, lambda array: np.zeros(tuple(array.shape), np.float32)),
        final_observations=FinalObservations(
            time=np.zeros(0, np.int64),
            column=np.zeros(0, np.int64),
            frame=np.zeros((0, *spaces.frame_shape), spaces.frame_dtype),
            tokens=np.zeros((0, length), np.int32),
        ),
    )
