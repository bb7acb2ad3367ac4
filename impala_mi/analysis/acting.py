"""Acting with a trained agent: a checkpoint as an object that maps an environment's observations to actions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from impala_mi.config import Config, build
from impala_mi.config_suites import MACHINE_KEYS
from impala_mi.envs.base import Observation, Suite
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError, allow_only
from impala_mi.nn.agent import Agent
from impala_mi.nn.heads import task_settings
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder, open_run
from impala_mi.tokenizer import tokenize
from impala_mi.types import AgentInput, RecurrentState

FRAME_KEYS = ("frame", "image", "pixels", "screen", "observation")
"""Keys under which the frame of an observation that is a mapping is looked up, in this order."""
INSTRUCTION_KEYS = ("instruction", "mission")
"""Keys under which its instruction is looked up, in this order."""


class ActingState(NamedTuple):
    """State of an agent between steps of N environments; steps return a new one and leave the old one valid."""

    recurrent: RecurrentState
    """[N, ...] recurrent state of the core."""
    last_action: np.ndarray
    """[N, *action_shape] the agent's previous actions."""
    first: np.ndarray
    """[N] bool, whether the next observation starts an episode."""
    batched: bool
    """Whether observations and actions have a leading axis N; otherwise N is 1 and there is none."""


@dataclass(frozen=True, eq=False)
class TrainedAgent:
    """Agent of a run's checkpoint, as `impala_mi.load_agent` returns it.

    A loop over one episode of a Gymnasium environment:

        state, reward, done = agent.initial_state(), 0.0, False
        observation, _ = env.reset()
        while not done:
            action, state = agent.step(observation, state, reward=reward)
            observation, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
    """

    folder: RunFolder
    config: Config
    """Configuration of the run."""
    suite: Suite
    """Suite that the agent was trained on: its levels, spaces, actions and action repeat."""
    network: Agent
    """Network in evaluation mode, on the CPU."""
    checkpoint: str
    """Name of the checkpoint."""
    seed: int = 1
    """Seed of sampled actions."""
    _generator: torch.Generator = field(init=False, repr=False, default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self._generator.manual_seed(self.seed)

    @property
    def levels(self) -> list[str]:
        """Names of the tasks, in the order of their indices."""
        return self.suite.level_names

    def initial_state(self, batch: int | None = None) -> ActingState:
        """State at the start of an episode, of one environment or of a batch of N."""
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
            raise UserError(f"batch={batch!r}: the number of environments is an int of at least 1, or None for one")
        n, space = batch or 1, self.suite.spaces.action_space
        return ActingState(
            self.network.initial_state(n),
            np.full((n, *space.shape), space.no_action, space.dtype),
            np.ones(n, bool),
            batch is not None,
        )

    def step(
        self,
        observation: Any,
        state: ActingState,
        *,
        reward: float | np.ndarray = 0.0,
        first: bool | np.ndarray | None = None,
        task: str | int | Sequence[str | int] | None = None,
        greedy: bool = False,
    ) -> tuple[Any, ActingState]:
        """Choose the next action of one environment, or of a batch of N if `state` is that of a batch.

        Args:
            observation: a frame, or a mapping of a frame (see `FRAME_KEYS`) and an instruction (see
                `INSTRUCTION_KEYS`), or an `Observation`. Frames are [*frame_shape] with the suite's dtype, uint8
                images or vectors; a batch has frames [N, *frame_shape] and N instructions. A vector may have
                any shape of as many numbers, because the suite `gym` flattens observations that are not images.
            state: `initial_state()` at an episode's start, then the state that the previous step returned.
            reward: unscaled reward of the previous action, summed over the action repeat; [N] in a batch. The
                network reads it: without it an agent acts as if it had earned nothing. Ignored where an episode
                starts.
            first: whether the observation starts an episode, bool or [N]; by default only for an initial state.
                A batch of environments that reset themselves needs it.
            task: name or index of the level, or N of them; by default the only level. An agent of several levels
                acts without it if its head computes no policy from the task.
            greedy: take the policy's mode instead of a sample.

        Returns:
            The action as the suite's environments take it (an int for discrete actions, an array [N, ...] in a
            batch), and the state for the next step.

        Raises:
            UserError: an argument has the wrong shape, dtype or value; the message names it and what is accepted.
        """
        n, space = len(state.first), self.suite.spaces.action_space
        level = self._level(task, n)
        starts = state.first if first is None else state.first | _per_environment("first", first, bool, n)
        scaled = self._scaled(_per_environment("reward", reward, np.float32, n), level)
        last_action = state.last_action.copy()
        last_action[starts] = space.no_action
        inputs = AgentInput(
            frame=self._frame(observation, state),
            tokens=self._tokens(observation, state),
            last_action=last_action,
            last_reward=np.where(starts, np.float32(0), scaled),
            first=starts,
            level=level,
        )
        chosen = self.network.act(inputs, state.recurrent, self._generator, greedy)
        actions = chosen.action.numpy()
        arguments = space.env_actions(actions)
        after = ActingState(chosen.state, actions, np.zeros(n, bool), state.batched)
        return (np.asarray(arguments) if state.batched else arguments[0]), after

    def _frame(self, observation: Any, state: ActingState) -> np.ndarray:
        """[N, *frame_shape] of an observation."""
        spaces, n = self.suite.spaces, len(state.first)
        frame = _part(observation, FRAME_KEYS)
        if frame is None:
            raise UserError(f"observation: no frame; a mapping needs one of the keys {', '.join(FRAME_KEYS)}")
        array = np.asarray(frame)
        shape = (n, *spaces.frame_shape) if state.batched else spaces.frame_shape
        same_dtype = array.dtype == np.uint8 if spaces.frame_dtype == "uint8" else array.dtype.kind in "fiub"
        grey = len(spaces.frame_shape) == 3 and shape[-1] == 1 and array.shape == shape[:-1]
        vector = len(spaces.frame_shape) == 1 and spaces.frame_dtype != "uint8"
        rows = array.shape[:1] == (n,) or not state.batched
        flat = vector and rows and array.size == n * spaces.frame_shape[0]
        if not same_dtype or not (array.shape == shape or grey or flat):
            raise UserError(
                f"observation: a frame of shape {array.shape} and dtype {array.dtype}; "
                f"{f'this state is of {n} environments and the agent' if state.batched else 'the agent'} "
                f"takes {shape} {spaces.frame_dtype}"
            )
        return np.array(array, spaces.frame_dtype).reshape(n, *spaces.frame_shape)

    def _tokens(self, observation: Any, state: ActingState) -> np.ndarray:
        """[N, L] tokens of an observation's instructions."""
        n, length = len(state.first), self.config.agent.instruction_tokens
        if not self.suite.spaces.instructions:
            return np.zeros((n, 0), np.int32)
        keyed = isinstance(observation, Mapping | Observation)
        words = _part(observation, INSTRUCTION_KEYS) if keyed else None
        if words is None:
            raise UserError(
                "observation: no instruction, which levels of this suite may give; pass a mapping of the frame and "
                f"the words (key {' or '.join(INSTRUCTION_KEYS)}, '' for none)"
            )
        texts = _repeated(words, str, n)
        if len(texts) != n or not all(isinstance(text, str) for text in texts):
            raise UserError(f"observation: instruction {words!r}; pass a str{f' or {n} of them' * state.batched}")
        return np.stack([tokenize(text, length) for text in texts])

    def _level(self, task: Any, n: int) -> np.ndarray | None:
        """[N] indices of the levels, or None if the agent is not told."""
        names = self.suite.level_names
        if task is None:
            if len(names) == 1:
                return np.zeros(n, np.int64)
            settings = task_settings(self.config.agent)
            if settings:
                raise UserError(
                    f"task: the policy of {settings} is computed from the task; pass one of {', '.join(names)}"
                )
            return None
        tasks = _repeated(task, str | int | np.integer, n)
        if len(tasks) != n:
            raise UserError(f"task={task!r}: pass a level's name or index{f', or {n} of them' * (n > 1)}")
        indices = []
        for name in tasks:
            index = names.index(name) if name in names else name
            if not isinstance(index, int | np.integer) or not 0 <= index < len(names):
                raise UserError(f"task={name!r}: pass a level's name or index, of {', '.join(names)}")
            indices.append(int(index))
        return np.array(indices, np.int64)

    def _scaled(self, reward: np.ndarray, level: np.ndarray | None) -> np.ndarray:
        """Rewards [N] times the scales of their levels [N]."""
        scales = np.array([each.reward_scale for each in self.suite.levels], np.float32)
        if level is None and len(set(scales.tolist())) > 1 and reward.any():
            raise UserError("task=None: the levels scale rewards differently; pass the task, or no reward")
        return reward * scales[0 if level is None else level]


def _per_environment(name: str, value: Any, dtype: Any, n: int) -> np.ndarray:
    """[N] of a single number or N of them."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or array.shape not in ((), (n,)):
        raise UserError(f"{name}={value!r}: pass a number{f', or {n} of them' * (n > 1)}")
    return np.broadcast_to(array.astype(dtype), (n,))


def _repeated(value: Any, kind: Any, n: int) -> list[Any]:
    """List of n times a value of that kind, or of the elements of a sequence; empty for anything else."""
    if isinstance(value, kind):
        return [value] * n
    return list(value) if isinstance(value, Sequence | np.ndarray) else []


def _part(observation: Any, keys: Sequence[str]) -> Any:
    """The first of the keys that an observation has, the observation itself if it has no keys, or None."""
    if isinstance(observation, Observation):
        observation = observation._asdict()
    if isinstance(observation, Mapping):
        return next((observation[key] for key in keys if key in observation), None)
    return observation


def read_agent(run: str, checkpoint: str, overrides: Sequence[str] = (), seed: int = 1) -> TrainedAgent:
    """Agent of a run's folder, on the CPU.

    Args:
        run: folder of the run.
        checkpoint: best, last, or the name of a checkpoint.
        overrides: `KEY=VALUE` settings of env.dmlab that differ from machine to machine (`MACHINE_KEYS`), and
            env.dmlab.human_scores, the scores that normalise.
        seed: seed of sampled actions.

    Raises:
        UserError: there is no such run or checkpoint, its suite cannot be imported, or another key is set.
    """
    allow_only(overrides, (*MACHINE_KEYS, "human_scores"))
    folder = open_run(run)
    config = build(run, folder.config.model_dump(), overrides)
    suite = make_suite(config.env)
    network = Agent(config.agent, suite.spaces)
    loaded = checkpoints.load(folder.checkpoints, checkpoint, lambda read: checkpoints.check_fits(read, network))
    network.load_state_dict(loaded.agent)
    return TrainedAgent(folder, config, suite, network.eval(), loaded.path.name, seed)
