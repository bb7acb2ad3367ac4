"""Suite `gym`: any list of Gymnasium environments with common spaces, each a level."""

import contextlib
import importlib.util
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.errors import MissingPackageError, UserError
from impala_mi.hooks import add_current_folder
from impala_mi.types import ActionSpace, Box, Discrete, MultiDiscrete, Spaces

KNOWN = {"CartPole-v1": (22.0, 0.02), "Pendulum-v1": (-1231.0, 0.01)}
"""Random score (mean of 1,000 episodes) and reward scale of environments where they were measured. Gymnasium itself
registers reference scores: the returns at which an environment counts as solved."""


class GymGame(Game):
    """A Gymnasium environment whose actions are repeated.

    Args:
        env_id: Gymnasium's id.
        repeat: environment steps per action.
        dtype: dtype of the frames, uint8 or float32.
    """

    def __init__(self, env_id: str, repeat: int, dtype: str) -> None:
        self._env = gymnasium.make(env_id)
        self._repeat, self._dtype = repeat, dtype

    def reset(self, seed: int) -> Observation:
        """Start an episode."""
        return self._observe(self._env.reset(seed=seed)[0])

    def step(self, action: int | np.ndarray) -> Outcome:
        """Repeat the action; stops early at the end of an episode."""
        total = 0.0
        for _ in range(self._repeat):
            frame, reward, terminated, truncated, _ = self._env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return Outcome(self._observe(frame), total, terminated, truncated and not terminated)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _observe(self, observation: np.ndarray) -> Observation:
        frame = np.array(observation, self._dtype)
        if self._dtype == "uint8":
            return Observation(frame[..., None] if frame.ndim == 2 else frame)
        return Observation(frame.reshape(-1))


class _EnvSpaces(NamedTuple):
    """Spaces of an environment."""

    shape: tuple[int, ...]
    dtype: str
    actions: ActionSpace


def _inspect(env_id: str) -> tuple[_EnvSpaces, float | None]:
    """Spaces and reward threshold of an environment; raises `UserError` if they are not supported."""
    try:
        env = gymnasium.make(env_id)
    except Exception as e:  # Gymnasium and its plug-ins raise anything here
        if "ale_py" in str(e) and importlib.util.find_spec("ale_py") is None:
            raise MissingPackageError("ale_py", "atari") from None
        raise UserError(f"env.levels: Gymnasium cannot make {env_id!r}: {e}") from None
    observations, actions = env.observation_space, _action_space(env_id, env.action_space)
    threshold = None if env.spec is None else env.spec.reward_threshold
    env.close()
    images = isinstance(observations, spaces.Box) and observations.dtype == np.uint8
    if not isinstance(observations, spaces.Box) or images != (len(observations.shape) in (2, 3)):
        raise UserError(
            f"env.levels: {env_id!r} has observations {observations}; only images (uint8, two or three axes) and "
            "vectors are supported"
        )
    if images:
        shape = (*observations.shape, 1) if len(observations.shape) == 2 else tuple(observations.shape)
        return _EnvSpaces(shape, "uint8", actions), threshold
    return _EnvSpaces((int(np.prod(observations.shape)),), "float32", actions), threshold


def _action_space(env_id: str, space: Any) -> ActionSpace:
    """Action space of the agent for a Gymnasium space; raises `UserError` if it is not supported."""
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return MultiDiscrete(tuple(int(n) for n in space.nvec))
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        with contextlib.suppress(ValueError):
            return Box(tuple(map(float, space.low)), tuple(map(float, space.high)))
    raise UserError(
        f"env.levels: {env_id!r} has actions {space}; only Discrete(n) and MultiDiscrete([n, ...]) that start at 0 "
        "and bounded Box spaces of one axis are supported"
    )


def gym(config: EnvConfig) -> Suite:
    """Suite of the ids in `env.levels`; raises `UserError` if they cannot be trained together."""
    if isinstance(config.levels, str) or not config.levels:
        raise UserError("env.suite=gym needs env.levels, a list of Gymnasium ids such as [CartPole-v1]")
    if len(set(config.levels)) < len(config.levels):
        raise UserError(f"env.levels={config.levels}: an id is given twice")
    if any(":" in env_id for env_id in config.levels):  # module:id names a module of the user
        add_current_folder()
    inspected = {env_id: _inspect(env_id) for env_id in config.levels}
    first, (common, _) = next(iter(inspected.items()))
    for env_id, (own, _) in inspected.items():
        for name, a, b in zip(("observation shape", "observation dtype", "actions"), common, own, strict=True):
            if a != b:
                raise UserError(
                    f"env.levels: {first!r} and {env_id!r} cannot be trained together: {name} {a} against {b}"
                )
    repeat, actions = config.action_repeat or 1, common.actions
    names = tuple(map(str, range(actions.n if isinstance(actions, Discrete) else len(actions.shape))))
    return Suite(
        name="gym",
        levels=tuple(_level(env_id, threshold) for env_id, (_, threshold) in inspected.items()),
        spaces=Spaces(common.shape, common.dtype, len(names), len(inspected), instructions=False, action=actions),
        actions=names,
        make_game=lambda env_id: GymGame(env_id, repeat, common.dtype),
        action_repeat=repeat,
    )


def _level(env_id: str, threshold: float | None) -> Level:
    random_score, reward_scale = KNOWN.get(env_id, (None, 1.0))
    source = "" if threshold is None else "Gymnasium's reward threshold"
    return Level(env_id, random_score, threshold, source, reward_scale)
