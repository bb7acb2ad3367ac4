"""Levels that an agent learns on a CPU in seconds, as tests of memory, instructions and task conditioning.

Every level has a 5x5 image and 3 actions. The reward at the end of an episode is 1 for success and -1 for failure.
"""

import numpy as np

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.envs.choose import choose_levels, refuse_action_repeat
from impala_mi.types import Spaces

SIDE, ACTIONS = 5, ("left", "stay", "right")
WORDS = ("go left", "stay here", "please go right now")


class TinyGame(Game):
    """A level, in which the agent must give the answer that was drawn at the start of the episode.

    catch: move the paddle under a ball that falls for four steps.
    memory: the answer is in the first frame and must be given after four blank frames.
    language: the answer is only in the instruction.
    always_left, always_right: the frame is blank; only the level tells which action is right.
    """

    def __init__(self, level: str) -> None:
        self.level = level

    def reset(self, seed: int) -> Observation:
        """Draw the answer."""
        rng = np.random.default_rng(seed)
        self.time, self.paddle = 0, SIDE // 2
        fixed = {"always_left": 0, "always_right": 2}
        columns = SIDE if self.level == "catch" else 3
        self.answer = fixed.get(self.level, int(rng.integers(columns)))
        return self._observe()

    def step(self, action: int) -> Outcome:
        """Take one step; the last step of an episode has the reward."""
        self.time += 1
        self.paddle = min(max(self.paddle + action - 1, 0), SIDE - 1)
        last = {"catch": SIDE - 1, "memory": SIDE}.get(self.level, 1)
        if self.time < last:
            return Outcome(self._observe(), 0.0)
        answer = self.paddle if self.level == "catch" else action
        return Outcome(self._observe(), 1.0 if answer == self.answer else -1.0, terminated=True)

    def close(self) -> None:
        """Nothing to free."""

    def _observe(self) -> Observation:
        frame = np.zeros((SIDE, SIDE, 1), np.uint8)
        if self.level == "catch":
            frame[min(self.time, SIDE - 1), self.answer] = 255
            frame[SIDE - 1, self.paddle] = 255
        elif self.level == "memory" and self.time == 0:
            frame[0, self.answer] = 255
        return Observation(frame, WORDS[self.answer] if self.level == "language" else "")


LEVELS = (
    Level("catch", -0.6, 1.0, "best possible"),
    *(Level(name, -1 / 3, 1.0, "best possible") for name in ("memory", "language", "always_left", "always_right")),
)


def tiny(config: EnvConfig) -> Suite:
    """Make the suite."""
    refuse_action_repeat("tiny", config.action_repeat)
    levels = choose_levels("tiny", LEVELS, config.levels)
    return Suite(
        name="tiny",
        levels=levels,
        spaces=Spaces((SIDE, SIDE, 1), "uint8", len(ACTIONS), len(levels), instructions=True),
        actions=ACTIONS,
        make_game=TinyGame,
    )
