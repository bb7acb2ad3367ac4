"""Any list of Gymnasium environments with common spaces, each a level."""

import importlib.util
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.errors import MissingPackageError, UserError
from impala_mi.types import Spaces

# Random score (mean of 1,000 episodes) and reward scale where they were measured. Gymnasium registers the returns
# at which an environment counts as solved: the reference scores.
KNOWN = {"CartPole-v1": (22.0, 0.02)}


class GymGame(Game):
    """One Gymnasium environment; an action is held for `repeat` steps."""

    def __init__(self, env_id: str, repeat: int, dtype: str) -> None:
        self._env = gymnasium.make(env_id)
        self._repeat, self._dtype = repeat, dtype

    def reset(self, seed: int) -> Observation:
        """Start an episode."""
        return self._observe(self._env.reset(seed=seed)[0])

    def step(self, action: int) -> Outcome:
        """Hold the action; stops early at an end."""
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
        return Observation(frame[..., None] if self._dtype == "uint8" and frame.ndim == 2 else frame)


class _Seen(NamedTuple):
    """What an environment shows and takes."""

    shape: tuple[int, ...]
    dtype: str
    actions: int


def _inspect(env_id: str) -> tuple[_Seen, float | None]:
    """Spaces and reward threshold of an environment; raises `UserError` where we cannot play it."""
    try:
        env = gymnasium.make(env_id)
    except Exception as e:  # Gymnasium and its plug-ins raise anything here
        if "ale_py" in str(e) and importlib.util.find_spec("ale_py") is None:
            raise MissingPackageError("ale_py", "atari") from None
        raise UserError(f"env.levels: Gymnasium cannot make {env_id!r}: {e}") from None
    seen, acts = env.observation_space, env.action_space
    threshold = None if env.spec is None else env.spec.reward_threshold
    env.close()
    if not isinstance(acts, spaces.Discrete) or acts.start != 0:
        raise UserError(f"env.levels: {env_id!r} has actions {acts}; only Discrete(n) is supported")
    if not isinstance(seen, spaces.Box) or (seen.dtype == np.uint8) != (len(seen.shape) in (2, 3)):
        raise UserError(
            f"env.levels: {env_id!r} shows {seen}; only images (uint8, two or three axes) and vectors are supported"
        )
    if seen.dtype == np.uint8:
        shape = (*seen.shape, 1) if len(seen.shape) == 2 else tuple(seen.shape)
        return _Seen(shape, "uint8", int(acts.n)), threshold
    return _Seen((int(np.prod(seen.shape)),), "float32", int(acts.n)), threshold


def gym(config: EnvConfig) -> Suite:
    """The suite of the ids in `env.levels`."""
    if isinstance(config.levels, str) or not config.levels:
        raise UserError("env.suite=gym needs env.levels, a list of Gymnasium ids such as [CartPole-v1]")
    if len(set(config.levels)) < len(config.levels):
        raise UserError(f"env.levels={config.levels}: an id is given twice")
    found = {i: _inspect(i) for i in config.levels}
    first, (seen, _) = next(iter(found.items()))
    for other, (its, _) in found.items():
        for what, a, b in zip(
            ("observation shape", "observation dtype", "number of actions"), seen, its, strict=True
        ):
            if a != b:
                raise UserError(
                    f"env.levels: {first!r} and {other!r} cannot be trained together: {what} {a} against {b}"
                )
    repeat = config.action_repeat or 1
    source = "Gymnasium's reward threshold"
    return Suite(
        name="gym",
        levels=tuple(
            Level(
                i,
                KNOWN[i][0] if i in KNOWN else None,
                threshold,
                source if threshold is not None else "",
                KNOWN[i][1] if i in KNOWN else 1.0,
            )
            for i, (_, threshold) in found.items()
        ),
        spaces=Spaces(seen.shape, seen.dtype, seen.actions, len(found), instructions=False),
        actions=tuple(str(a) for a in range(seen.actions)),
        make_game=lambda env_id: GymGame(env_id, repeat, seen.dtype),
        action_repeat=repeat,
    )
