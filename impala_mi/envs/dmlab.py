"""DeepMind Lab as a game. It runs in a child process (see `process`), because any of its calls may end the process.

Requirements of the module, verified with a real build: observations are a list; settings are strings; actions are
contiguous rows of np.intc (anything else is silently misread); seeds are Python ints (without one, the clock is the
seed); no call after `close` (it would segfault); no call except `reset` after the end of an episode.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from impala_mi.envs.base import Game, Observation, Outcome
from impala_mi.envs.level_cache import LevelCache
from impala_mi.envs.map_compiles import MapCompiles

WIDTH, HEIGHT = 96, 72
PREFIX = "contributed/dmlab30/"

# Look left/right and down/up (pixels per frame), strafe left/right, move back/forward, fire, jump, crouch.
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
"""The actions of Sample Factory and DreamerV3, which follow Hessel et al. (2019)."""
ACTIONS = {"impala": IMPALA_ACTIONS, "extended": EXTENDED_ACTIONS}


@dataclass(frozen=True)
class LabSettings:
    """Settings that all levels of a run share."""

    actions: str
    action_repeat: int
    renderer: str
    held_out: bool
    mixer_seed: int | None
    dataset_path: str | None
    level_cache: Path | None
    level_cache_bytes: int | None
    locks: Path
    """Folder of `map_compiles`."""

    def config(self) -> dict[str, str]:
        """Settings in the form that DeepMind Lab expects."""
        config = {"width": str(WIDTH), "height": str(HEIGHT)}
        if self.held_out:
            config["allowHoldOutLevels"] = "true"
        if self.mixer_seed is not None:
            config["mixerSeed"] = str(self.mixer_seed)
        if self.dataset_path is not None:
            config["datasetPath"] = self.dataset_path
        return config


class LabGame(Game):
    """One DeepMind Lab level.

    The first episode of an instance differs from its later episodes with the same seed; the engine behaves so.

    Args:
        level: name of the level without its prefix.
        settings: settings of the run.
        folder: folder for temporary files; the caller removes it.
    """

    def __init__(self, level: str, settings: LabSettings, folder: str) -> None:
        # Parallelism comes from processes: the software renderer draws in the thread of the process.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        import deepmind_lab

        self._actions = np.array(list(ACTIONS[settings.actions].values()), np.intc)  # rows are contiguous
        self._repeat = settings.action_repeat
        cache = None
        if settings.level_cache is not None:
            cache = LevelCache(settings.level_cache, settings.level_cache_bytes)
        self._maps = MapCompiles(cache, settings.locks, Path(folder))
        lab_folder = Path(folder) / "lab"
        lab_folder.mkdir(exist_ok=True)
        self._lab: Any = deepmind_lab.Lab(
            PREFIX + level,
            ["RGB_INTERLEAVED", "INSTR"],
            config=settings.config(),
            renderer=settings.renderer,
            level_cache=self._maps,
            temp_folder=str(lab_folder),
        )

    def reset(self, seed: int) -> Observation:
        """Start an episode; raises whatever the level raises."""
        try:
            self._lab.reset(seed=int(seed))
        finally:
            self._maps.release()  # after a compile that failed
        return self._observe()

    def step(self, action: int) -> Outcome:
        """Repeat the action for the action repeat. There is no observation at the end of an episode."""
        try:
            reward = float(self._lab.step(self._actions[action], num_steps=self._repeat))
        finally:
            self._maps.release()
        if self._lab.is_running():
            return Outcome(self._observe(), reward)
        return Outcome(None, reward, terminated=True)  # also at time limits, as in the published results

    def close(self) -> None:
        """End the level; no method may be called afterwards."""
        self._lab.close()

    def counts(self) -> dict[str, int]:
        """Hits and misses of the level cache since the last call."""
        return self._maps.take_counts()

    def _observe(self) -> Observation:
        obs = self._lab.observations()  # draws the frame; the instruction may change at every step
        return Observation(obs["RGB_INTERLEAVED"], obs["INSTR"])
