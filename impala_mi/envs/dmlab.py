"""DeepMind Lab as a game. Made in a child process, see `process`: any of its calls may end the process.

What the module demands, each learnt on a real build: observations as a list, settings as strings, actions as
contiguous rows of np.intc (anything else is silently misread), seeds as Python ints (left out, they are the clock's
seconds), no call after `close` (it would segfault) and none but `reset` after an episode's end.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from impala_mi.envs.base import Game, Observation, Outcome
from impala_mi.envs.level_cache import LevelCache

WIDTH, HEIGHT = 96, 72
PREFIX = "contributed/dmlab30/"

# Look left/right and down/up (pixels a frame), strafe left/right, move back/forward, fire, jump, crouch.
IMPALA_ACTIONS = {
    "forward": (0, 0, 0, 1, 0, 0, 0),
    "backward": (0, 0, 0, -1, 0, 0, 0),
    "strafe_left": (0, 0, -1, 0, 0, 0, 0),
    "strafe_right": (0, 0, 1, 0, 0, 0, 0),
    "look_left": (-20, 0, 0, 0, 0, 0, 0),
    "look_right": (20, 0, 0, 0, 0, 0, 0),
    "forward_look_left": (-20, 0, 0, 1, 0, 0, 0),
    "forward_look_right": (20, 0, 0, 1, 0, 0, 0),
    "fire": (0, 0, 0, 0, 1, 0, 0),
}
EXTENDED_ACTIONS = {
    "forward": (0, 0, 0, 1, 0, 0, 0),
    "backward": (0, 0, 0, -1, 0, 0, 0),
    "strafe_left": (0, 0, -1, 0, 0, 0, 0),
    "strafe_right": (0, 0, 1, 0, 0, 0, 0),
    "look_left_slowly": (-10, 0, 0, 0, 0, 0, 0),
    "look_right_slowly": (10, 0, 0, 0, 0, 0, 0),
    "look_left": (-60, 0, 0, 0, 0, 0, 0),
    "look_right": (60, 0, 0, 0, 0, 0, 0),
    "look_down": (0, -10, 0, 0, 0, 0, 0),
    "look_up": (0, 10, 0, 0, 0, 0, 0),
    "forward_look_left_slowly": (-10, 0, 0, 1, 0, 0, 0),
    "forward_look_right_slowly": (10, 0, 0, 1, 0, 0, 0),
    "forward_look_left": (-60, 0, 0, 1, 0, 0, 0),
    "forward_look_right": (60, 0, 0, 1, 0, 0, 0),
    "fire": (0, 0, 0, 0, 1, 0, 0),
}
"""Sample Factory's and DreamerV3's, said to follow Hessel et al. (2019)."""
ACTIONS = {"impala": IMPALA_ACTIONS, "extended": EXTENDED_ACTIONS}


@dataclass(frozen=True)
class LabSettings:
    """What all levels of a run have in common."""

    actions: str
    action_repeat: int
    renderer: str
    held_out: bool
    mixer_seed: int | None
    dataset_path: str | None
    level_cache: Path | None
    level_cache_bytes: int | None

    def config(self) -> dict[str, str]:
        """DeepMind Lab's own settings."""
        config = {"width": str(WIDTH), "height": str(HEIGHT)}
        if self.held_out:
            config["allowHoldOutLevels"] = "true"
        if self.mixer_seed is not None:
            config["mixerSeed"] = str(self.mixer_seed)
        if self.dataset_path is not None:
            config["datasetPath"] = self.dataset_path
        return config


class LabGame(Game):
    """One level.

    An instance's first episode differs from its later ones with the same seed, and that is how it is here.

    Args:
        level: without its prefix.
        settings: of the run.
        folder: for the temporary files; whoever made it removes it.
    """

    def __init__(self, level: str, settings: LabSettings, folder: str) -> None:
        # Processes are the parallelism: the software renderer draws in the process's own thread.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        import deepmind_lab

        self._actions = np.array(list(ACTIONS[settings.actions].values()), np.intc)  # rows are contiguous
        self._repeat = settings.action_repeat
        self._cache = None
        if settings.level_cache is not None:
            self._cache = LevelCache(settings.level_cache, settings.level_cache_bytes)
        own = Path(folder) / "lab"
        own.mkdir(exist_ok=True)
        self._lab: Any = deepmind_lab.Lab(
            PREFIX + level,
            ["RGB_INTERLEAVED", "INSTR"],
            config=settings.config(),
            renderer=settings.renderer,
            level_cache=self._cache,
            temp_folder=str(own),
        )

    def reset(self, seed: int) -> Observation:
        """Start an episode; raises whatever the level raises."""
        self._lab.reset(seed=int(seed))
        return self._observe()

    def step(self, action: int) -> Outcome:
        """Hold the action for the action repeat. There is no observation at an episode's end."""
        reward = float(self._lab.step(self._actions[action], num_steps=self._repeat))
        if self._lab.is_running():
            return Outcome(self._observe(), reward)
        return Outcome(None, reward, terminated=True)  # time limits too, as in the published results

    def close(self) -> None:
        """End the level; nothing may be called afterwards."""
        self._lab.close()

    def counts(self) -> dict[str, int]:
        """Hits and misses of the level cache since the last call."""
        if self._cache is None:
            return {}
        counts, self._cache.counts = dict(self._cache.counts), Counter()
        return counts

    def _observe(self) -> Observation:
        shown = self._lab.observations()  # draws; the instruction can change at every step
        return Observation(shown["RGB_INTERLEAVED"], shown["INSTR"])
