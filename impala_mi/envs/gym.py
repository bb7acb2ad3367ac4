"""Suite `gym`: any list of Gymnasium environments with common spaces, each a level."""

import contextlib
import importlib.util
import warnings
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from impala_mi.code_permission import code_allowed, refusal
from impala_mi.config import EnvConfig
from impala_mi.config_suites import GymConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.envs.outcome_checks import FrameBounds
from impala_mi.errors import MissingPackageError, UserError, shorten
from impala_mi.hooks import add_current_folder, load_hook
from impala_mi.types import ActionSpace, Box, Discrete, MultiDiscrete, Spaces

MAX_CHANNELS = 16
"""Most channels or stacked frames of a picture; a first axis no longer than this before longer ones holds them."""
KNOWN = {"CartPole-v1": (22.0, 0.02), "Pendulum-v1": (-1231.0, 0.01)}
"""Random score (mean of 1,000 episodes) and reward scale of environments where they were measured. Gymnasium itself
registers reference scores: the returns at which an environment counts as solved."""


class GymGame(Game):
    """A Gymnasium environment whose actions are repeated.

    Args:
        env: the environment.
        repeat: environment steps per action.
        dtype: dtype of the frames, uint8 or float32.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], repeat: int, dtype: str) -> None:
        self._env = env
        self._repeat, self._dtype = repeat, dtype
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        self._space = space
        self._shape, self._kinds = space.shape, "u" if dtype == "uint8" else "fiub"
        self._channels_first = dtype == "uint8" and _channels_first(space.shape)
        with np.errstate(over="ignore"):  # bounds of float64
            low, high = self._arranged(space.low), self._arranged(space.high)
        info = np.iinfo(np.uint8) if dtype == "uint8" else np.finfo(np.float32)
        self.bounds = (low, high) if (low > info.min).any() or (high < info.max).any() else None
        """Smallest and largest numbers of frames; None where they are those of the dtype."""

    def reset(self, seed: int) -> Observation:
        """Start an episode; raises `ValueError` as `step`."""
        return self._observe(self._env.reset(seed=seed)[0])

    def step(self, action: int | np.ndarray) -> Outcome:
        """Repeat the action; stops early at the end of an episode.

        Raises `ValueError` if the observation is not of the environment's own space.
        """
        total = 0.0
        for _ in range(self._repeat):
            frame, reward, terminated, truncated, _ = self._env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return Outcome(self._observe(frame), total, bool(terminated), bool(truncated and not terminated))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _observe(self, observation: Any) -> Observation:
        shown = np.asarray(observation)
        if (
            shown.shape != self._shape
            or shown.dtype.kind not in self._kinds
            or (self._dtype == "uint8" and shown.dtype.itemsize != 1)
        ):
            raise ValueError(
                f"an observation of shape {list(shown.shape)} and dtype {shown.dtype}; the environment's space has "
                f"{list(self._space.shape)} {self._space.dtype}"
            )
        return Observation(self._arranged(shown))

    def _arranged(self, array: np.ndarray) -> np.ndarray:
        """Copy of an array of the environment's space in the dtype and the axes of frames."""
        frame = np.array(array, self._dtype)
        if self._dtype != "uint8":
            return frame.reshape(-1)
        if self._channels_first:
            return np.ascontiguousarray(frame.transpose(1, 2, 0))
        return frame[..., None] if frame.ndim == 2 else frame


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Whether pictures have their channels, or stacked frames, before height and width."""
    return len(shape) == 3 and shape[0] <= MAX_CHANNELS < min(shape[1:])


def _make(config: GymConfig, env_id: str) -> gymnasium.Env[Any, Any]:
    """The environment of an id with its arguments and wrappers; raises `UserError` if it may not be imported."""
    if ":" in env_id and not code_allowed():
        raise UserError(refusal("env.levels", env_id))
    arguments = config.kwargs.get("all", {}) | config.kwargs.get(env_id, {})
    env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, **arguments)
    for target in config.wrappers:
        env = load_hook(target, "env.gym.wrappers")(env)
        if not isinstance(env, gymnasium.Env):
            raise UserError(f"env.gym.wrappers={target!r}: returns a {type(env).__name__}, not an environment")
    return env


class _EnvSpaces(NamedTuple):
    """Spaces of an environment."""

    shape: tuple[int, ...]
    dtype: str
    actions: ActionSpace


def _inspect(config: GymConfig, env_id: str) -> tuple[_EnvSpaces, float | None]:
    """Spaces and reward threshold of an environment; raises `UserError` if they are not supported."""
    try:
        env = _make(config, env_id)
    except UserError:
        raise
    except Exception as e:  # Gymnasium and its plug-ins raise anything here
        if "ale_py" in str(e) and importlib.util.find_spec("ale_py") is None:
            raise MissingPackageError("ale_py", "atari") from None
        raise UserError(f"env.levels: Gymnasium cannot make {env_id!r}: {e}") from None
    observations, actions = env.observation_space, _action_space(env_id, env.action_space)
    threshold = None if env.spec is None else env.spec.reward_threshold
    _close(env_id, env)
    images = isinstance(observations, spaces.Box) and observations.dtype == np.uint8
    if not isinstance(observations, spaces.Box) or images != (len(observations.shape) in (2, 3)):
        raise UserError(
            f"env.levels: {env_id!r} has observations {observations}; only images (uint8, two or three axes) and "
            "vectors are supported; a wrapper in env.gym.wrappers can change them"
        )
    if images:
        shape = (*observations.shape, 1) if len(observations.shape) == 2 else tuple(observations.shape)
        shape = (*shape[1:], shape[0]) if _channels_first(observations.shape) else shape
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


def _close(env_id: str, env: gymnasium.Env[Any, Any]) -> None:
    try:
        env.close()
    except Exception as e:  # an environment can raise anything
        raise UserError(f"env.levels: {env_id!r} cannot be closed: {type(e).__name__}: {e}") from None


def _try_out(config: EnvConfig, dtype: str) -> None:
    """Reset every environment once; raises `UserError` if one does not show what its space says."""
    for env_id in config.levels:
        env = _make(config.gym, env_id)
        try:
            game = GymGame(env, 1, dtype)
            observation = game.reset(0)
            if dtype != "uint8" and not np.isfinite(observation.frame).all():
                raise ValueError(f"an observation that is not finite: {observation.frame.tolist()}")
            if game.bounds is not None:
                FrameBounds(*game.bounds).check(observation.frame)
        except Exception as e:  # an environment can raise anything
            raise UserError(
                f"env.levels: {env_id!r}, first reset: {shorten(f'{type(e).__name__}: {e}', 400)}"
            ) from None
        finally:
            _close(env_id, env)
        if isinstance(env.observation_space, spaces.Box) and dtype == "uint8":
            shape = env.observation_space.shape
            if _channels_first(shape):
                warnings.warn(
                    f"{env_id}: pictures {list(shape)} are turned into {[*shape[1:], shape[0]]}", stacklevel=2
                )


def gym(config: EnvConfig) -> Suite:
    """Suite of the ids in `env.levels`; raises `UserError` if they cannot be trained together."""
    if isinstance(config.levels, str) or not config.levels:
        raise UserError("env.suite=gym needs env.levels, a list of Gymnasium ids such as [CartPole-v1]")
    if len(set(config.levels)) < len(config.levels):
        raise UserError(f"env.levels={config.levels}: an id is given twice")
    if any(":" in env_id for env_id in config.levels):  # module:id names a module of the user
        add_current_folder()
    for env_id in config.gym.kwargs:
        if env_id not in (*config.levels, "all"):
            raise UserError(f"env.gym.kwargs: {shorten(env_id)!r} is none of env.levels={config.levels}, nor all")
    inspected = {env_id: _inspect(config.gym, env_id) for env_id in config.levels}
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
        make_game=lambda env_id: GymGame(_make(config.gym, env_id), repeat, common.dtype),
        action_repeat=repeat,
        check=lambda: _try_out(config, common.dtype),
    )


def _level(env_id: str, threshold: float | None) -> Level:
    random_score, reward_scale = KNOWN.get(env_id, (None, 1.0))
    source = "" if threshold is None else "Gymnasium's reward threshold"
    return Level(env_id, random_score, threshold, source, reward_scale)
