"""Frames of precomputed noise: environments without cost, to measure the system and the network alone."""

import numpy as np

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.envs.choose import choose_levels, refuse_action_repeat
from impala_mi.types import Spaces

SHAPE, ACTIONS, FRAMES, EPISODE_STEPS = (72, 96, 3), 9, 64, 300
LEVELS = (Level("noise"),)


class NoiseGame(Game):
    """Precomputed frames in an order that depends on the actions; one action of `ACTIONS` is rewarded."""

    def __init__(self, level: str) -> None:
        frames = np.random.default_rng(0).integers(0, 256, (FRAMES, *SHAPE), dtype=np.uint8)
        self._observations = [Observation(frame) for frame in frames]

    def reset(self, seed: int) -> Observation:
        """Start an episode."""
        self._time, self._at = 0, seed % FRAMES
        return self._observations[self._at]

    def step(self, action: int) -> Outcome:
        """Move to another frame."""
        self._time += 1
        self._at = (self._at + 1 + action) % FRAMES
        reward = float(action == self._at % ACTIONS)
        return Outcome(self._observations[self._at], reward, truncated=self._time >= EPISODE_STEPS)

    def close(self) -> None:
        """Nothing to free."""


def noise(config: EnvConfig) -> Suite:
    """Make the suite, for `impala-mi bench`."""
    refuse_action_repeat("noise", config.action_repeat)
    levels = choose_levels("noise", LEVELS, config.levels)
    return Suite(
        name="noise",
        levels=levels,
        spaces=Spaces(SHAPE, "uint8", ACTIONS, len(levels), instructions=False),
        actions=tuple(str(a) for a in range(ACTIONS)),
        make_game=NoiseGame,
    )
