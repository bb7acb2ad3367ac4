"""Any list of Gymnasium environments with common spaces, each a level."""

from collections.abc import Sequence

import gymnasium
import numpy as np
from gymnasium import spaces

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.errors import UserError
from impala_mi.types import Spaces

# Gymnasium registers thresholds at which an environment counts as solved; these random scores are means of
# 1,000 episodes.
RANDOM_SCORES = {"CartPole-v1": 22.2}


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


def _spaces(env_id: str) -> tuple[tuple[int, ...], str, int]:
    """Frame shape, dtype and number of actions of an environment; raises `UserError` where we cannot play it."""
    try:
        env = gymnasium.make(env_id)
    except Exception as e:  # Gymnasium and its plug-ins raise anything here
        raise UserError(f"env.levels: Gymnasium cannot make {env_id!r}: {e}") from None
    seen, acts = env.observation_space, env.action_space
    env.close()
    if not isinstance(acts, spaces.Discrete) or acts.start != 0:
        raise UserError(f"env.levels: {env_id!r} has actions {acts}; only Discrete(n) is supported")
    if not isinstance(seen, spaces.Box) or (seen.dtype == np.uint8) != (len(seen.shape) in (2, 3)):
        raise UserError(
            f"env.levels: {env_id!r} shows {seen}; only images (uint8, two or three axes) and vectors are supported"
        )
    if seen.dtype == np.uint8:
        return (*seen.shape, 1) if len(seen.shape) == 2 else tuple(seen.shape), "uint8", int(acts.n)
    return (int(np.prod(seen.shape)),), "float32", int(acts.n)


def _common(ids: Sequence[str]) -> tuple[tuple[int, ...], str, int]:
    """The spaces of all; raises `UserError` where two differ."""
    found = {i: _spaces(i) for i in ids}
    for i in ids[1:]:
        if found[i] != found[ids[0]]:
            names = ("observation shape", "observation dtype", "number of actions")
            what = next(
                f"{n} {a} against {b}" for n, a, b in zip(names, found[ids[0]], found[i], strict=True) if a != b
            )
            raise UserError(f"env.levels: {ids[0]!r} and {i!r} cannot be trained together: {what}")
    return found[ids[0]]


def gym(config: EnvConfig) -> Suite:
    """The suite of the ids in `env.levels`."""
    if isinstance(config.levels, str) or not config.levels:
        raise UserError("env.suite=gym needs env.levels, a list of Gymnasium ids such as [CartPole-v1]")
    if len(set(config.levels)) < len(config.levels):
        raise UserError(f"env.levels={config.levels}: an id is given twice")
    shape, dtype, actions = _common(config.levels)
    repeat = config.action_repeat or 1

    def level(env_id: str) -> Level:
        threshold = gymnasium.spec(env_id).reward_threshold
        return Level(env_id, RANDOM_SCORES.get(env_id), threshold, "Gymnasium's reward threshold" if threshold else "")

    return Suite(
        name="gym",
        levels=tuple(level(i) for i in config.levels),
        spaces=Spaces(shape, dtype, actions, len(config.levels), instructions=False),
        actions=tuple(str(a) for a in range(actions)),
        make_game=lambda env_id: GymGame(env_id, repeat, dtype),
        action_repeat=repeat,
    )
