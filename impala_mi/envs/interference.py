"""Tasks that see the same symbols and contradict each other by a chosen degree, for studies of interference.

An episode shows `STEPS` random symbols, and each has one right action, which earns a reward of 1. A share
`env.interference.contradiction` of the symbols is contested: there each task has a right action of its own, drawn
independently, so that two tasks agree there by chance, with probability 1/8. On the other symbols all tasks agree.
At 0 the levels are one task under several names. The frame never tells the task: a head is told, or the core infers
it from rewards.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from impala_mi.config import EnvConfig
from impala_mi.config_suites import InterferenceConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.envs.choose import choose_levels, refuse_action_repeat
from impala_mi.types import Spaces

SYMBOLS, FEATURES, ACTIONS = 32, 16, 8
STEPS = 16
"""Steps of an episode."""


def right_actions(config: InterferenceConfig) -> np.ndarray:
    """Right action [tasks, SYMBOLS] of each symbol in each task.

    With the same seed, more tasks leave the first ones as they are, and more contradiction contests more symbols
    and leaves the others as they are.
    """
    rng = np.random.default_rng(config.rules_seed)
    common, order = rng.integers(ACTIONS, size=SYMBOLS), rng.permutation(SYMBOLS)
    own = rng.integers(ACTIONS, size=(config.tasks, SYMBOLS))
    return np.where(order < round(config.contradiction * SYMBOLS), own, common)


def features(config: InterferenceConfig) -> np.ndarray:
    """Features [SYMBOLS, FEATURES] of the symbols, the same for all tasks."""
    rng = np.random.default_rng([config.rules_seed, 1])
    return rng.normal(size=(SYMBOLS, FEATURES)).astype(np.float32)


class InterferenceGame(Game):
    """One task.

    Args:
        frames: features [SYMBOLS, FEATURES] of the symbols.
        right: right action [SYMBOLS] of each symbol.
    """

    def __init__(self, frames: np.ndarray, right: np.ndarray) -> None:
        self._observations = [Observation(row) for row in frames]
        self._right = right.tolist()

    def reset(self, seed: int) -> Observation:
        """Draw the symbols of an episode."""
        self._symbols = np.random.default_rng(seed).integers(SYMBOLS, size=STEPS + 1).tolist()
        self._time = 0
        return self._observations[self._symbols[0]]

    def step(self, action: int) -> Outcome:
        """Reward the right action for the symbol, and show the next one."""
        reward = float(action == self._right[self._symbols[self._time]])
        self._time += 1
        return Outcome(self._observations[self._symbols[self._time]], reward, terminated=self._time == STEPS)

    def close(self) -> None:
        """Nothing to free."""


def interference(config: EnvConfig) -> Suite:
    """Make the suite; its levels are `task_0`, `task_1`, ..."""
    refuse_action_repeat("interference", config.action_repeat)
    rules = right_actions(config.interference)
    games = {
        f"task_{k}": partial(InterferenceGame, features(config.interference), rule) for k, rule in enumerate(rules)
    }
    known = [Level(name, STEPS / ACTIONS, float(STEPS), "best possible") for name in games]
    levels = choose_levels("interference", known, config.levels)
    return Suite(
        name="interference",
        levels=levels,
        spaces=Spaces((FEATURES,), "float32", ACTIONS, len(levels), instructions=False),
        actions=tuple(str(a) for a in range(ACTIONS)),
        make_game=partial(_make_game, games),
    )


def _make_game(games: Mapping[str, Callable[[], Game]], level: str) -> Game:
    return games[level]()
