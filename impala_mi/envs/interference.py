"""Tasks that see the same symbols and contradict each other by a chosen degree: interference on a dial.

An episode shows `STEPS` random symbols, and each has one right action, which earns a reward of 1. A share
`env.interference.contradiction` of the symbols is contested: there each task has a right action of its own, drawn
independently. On the other symbols all tasks agree. At 0 the levels are one task under several names; at 1 they
share nothing but the symbols. The frame never tells the task: a head is told, or the core infers it from rewards.
"""

from functools import partial

import numpy as np

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.envs.choose import choose_levels, refuse_action_repeat
from impala_mi.types import Spaces

SYMBOLS, FEATURES, ACTIONS = 32, 16, 8
STEPS = 16
"""Steps of an episode."""
RULES_SEED = 20200426
"""Seed of the symbols' features and the right actions: all runs with as many tasks play the same rules."""


def right_actions(tasks: int, contradiction: float) -> np.ndarray:
    """Right action [tasks, SYMBOLS] of each symbol in each task.

    The contested symbols of a smaller contradiction are among those of a larger one.
    """
    rng = np.random.default_rng([RULES_SEED, tasks])
    common, own = rng.integers(ACTIONS, size=SYMBOLS), rng.integers(ACTIONS, size=(tasks, SYMBOLS))
    contested = rng.permutation(SYMBOLS) < round(contradiction * SYMBOLS)
    return np.where(contested, own, common)


class InterferenceGame(Game):
    """One task: `right` [SYMBOLS] is the right action of each symbol."""

    def __init__(self, right: np.ndarray) -> None:
        features = np.random.default_rng(RULES_SEED).normal(size=(SYMBOLS, FEATURES)).astype(np.float32)
        self._observations = [Observation(row) for row in features]
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
    rules = right_actions(config.interference.tasks, config.interference.contradiction)
    rule_of = {f"task_{k}": rule for k, rule in enumerate(rules)}
    known = [Level(name, STEPS / ACTIONS, float(STEPS), "best possible") for name in rule_of]
    levels = choose_levels("interference", known, config.levels)
    return Suite(
        name="interference",
        levels=levels,
        spaces=Spaces((FEATURES,), "float32", ACTIONS, len(levels), instructions=False),
        actions=tuple(str(a) for a in range(ACTIONS)),
        make_game=partial(_make_game, rule_of),
    )


def _make_game(rule_of: dict[str, np.ndarray], level: str) -> Game:
    return InterferenceGame(rule_of[level])
