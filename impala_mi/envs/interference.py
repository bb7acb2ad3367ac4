"""Tasks that see the same symbols and contradict each other by a chosen degree, for studies of interference.

An episode shows `STEPS` random symbols, and each has one right action, which earns the task's reward. A share
`env.interference.contradiction` of the symbols is contested: there each task has a right action of its own, drawn
independently, so that two tasks agree there by chance, with probability 1/8. On the other symbols all tasks agree.
At 0 the levels are one task under several names. Frames do not show the task: the head gets the task ID, or the
core infers the task from rewards. With `env.interference.task_in_frame` all frames but an episode's first show it.
The reward of a task is 1, or with `env.interference.reward_ratio` r a number between 1 / sqrt(r) and sqrt(r).
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

    With the same seed, more tasks do not change the first ones, and more contradiction only adds contested symbols.
    """
    rng = np.random.default_rng(config.rules_seed)
    common, order = rng.integers(ACTIONS, size=SYMBOLS), rng.permutation(SYMBOLS)
    own = rng.integers(ACTIONS, size=(config.tasks, SYMBOLS))
    return np.where(order < round(config.contradiction * SYMBOLS), own, common)


def frames(config: InterferenceConfig) -> np.ndarray:
    """Frames [tasks, 2, SYMBOLS, F] at an episode's start and after it.

    They show features of the symbol, the same for all tasks, and with `task_in_frame` features of the task, which
    are 0 at the start: first frames are alike in all tasks.
    """
    rng = np.random.default_rng([config.rules_seed, 1])
    symbols = rng.normal(size=(SYMBOLS, FEATURES)).astype(np.float32)
    shown = np.broadcast_to(symbols, (config.tasks, 2, SYMBOLS, FEATURES))
    if not config.task_in_frame:
        return shown
    tasks = np.zeros(shown.shape, np.float32)
    tasks[:, 1] = rng.normal(size=(config.tasks, 1, FEATURES))
    return np.concatenate([shown, tasks], axis=-1)


def task_rewards(config: InterferenceConfig) -> np.ndarray:
    """Reward [tasks] of a right action in each task: log-uniform; more tasks leave the first ones as they are."""
    rng = np.random.default_rng([config.rules_seed, 2])
    return config.reward_ratio ** rng.uniform(-0.5, 0.5, size=config.tasks)


class InterferenceGame(Game):
    """One task.

    Args:
        frames: frames [2, SYMBOLS, F] of the symbols at the start of an episode and after it.
        right: right action [SYMBOLS] of each symbol.
        reward: reward of a right action.
    """

    def __init__(self, frames: np.ndarray, right: np.ndarray, reward: float) -> None:
        self._first, self._later = ([Observation(row) for row in part] for part in frames)
        self._right, self._reward = right.tolist(), float(reward)

    def reset(self, seed: int) -> Observation:
        """Draw the symbols of an episode."""
        self._symbols = np.random.default_rng(seed).integers(SYMBOLS, size=STEPS + 1).tolist()
        self._time = 0
        return self._first[self._symbols[0]]

    def step(self, action: int) -> Outcome:
        """Reward the right action for the symbol, and show the next one."""
        reward = self._reward * (action == self._right[self._symbols[self._time]])
        self._time += 1
        return Outcome(self._later[self._symbols[self._time]], reward, terminated=self._time == STEPS)

    def close(self) -> None:
        """Nothing to free."""


def interference(config: EnvConfig) -> Suite:
    """Make the suite; its levels are `task_0`, `task_1`, ..."""
    refuse_action_repeat("interference", config.action_repeat)
    shown, rules, rewards = (make(config.interference) for make in (frames, right_actions, task_rewards))
    games = {f"task_{k}": partial(InterferenceGame, shown[k], rules[k], rewards[k]) for k in range(len(rules))}
    known = [
        Level(name, STEPS / ACTIONS * reward, STEPS * reward, "best possible")
        for name, reward in zip(games, rewards.tolist(), strict=True)
    ]
    levels = choose_levels("interference", known, config.levels)
    return Suite(
        name="interference",
        levels=levels,
        spaces=Spaces(shown.shape[3:], "float32", ACTIONS, len(levels), instructions=False),
        actions=tuple(str(a) for a in range(ACTIONS)),
        make_game=partial(_make_game, games),
    )


def _make_game(games: Mapping[str, Callable[[], Game]], level: str) -> Game:
    return games[level]()
