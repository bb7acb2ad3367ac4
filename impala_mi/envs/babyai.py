"""BabyAI and MiniGrid levels, with their missions as instructions.

A frame is the agent's partial view at 8 pixels per tile (56x56x3). Random scores are means of 200 episodes of
uniformly random actions (`impala-mi levels babyai --measure-random 200`). Reference scores are means of 200
episodes of BabyAI's own bot, which knows the whole map (`benchmarks/babyai_scores.py`).
"""

import contextlib

import numpy as np

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.envs.choose import choose_levels, refuse_action_repeat
from impala_mi.errors import MissingPackageError
from impala_mi.types import Spaces

TILE = 8
ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
_BOT = "BabyAI's bot, 200 episodes"
LEVELS = (
    Level("GoToRedBallGrey", 0.105, 0.915, _BOT),
    Level("GoToRedBall", 0.167, 0.922, _BOT),
    Level("GoToObj", 0.106, 0.928, _BOT),
    Level("GoToLocal", 0.14, 0.927, _BOT),
    Level("PickupLoc", 0.079, 0.913, _BOT),
    Level("PickupDist", 0.108, 0.903, _BOT),
    Level("OpenDoor", 0.217, 0.989, _BOT),
    Level("OpenRedDoor", 0.078, 0.919, _BOT),
    Level("PutNextLocal", 0.01, 0.914, _BOT),
    Level("ActionObjDoor", 0.355, 0.987, _BOT),
    Level("UnlockLocal", 0.012, 0.978, _BOT),
    Level("GoToDoor", 0.483, 0.989, _BOT),
)


class BabyAIGame(Game):
    """One BabyAI level."""

    def __init__(self, level: str) -> None:
        import gymnasium
        import minigrid  # noqa: F401  registers the environment ids

        self.env = gymnasium.make(f"BabyAI-{level}-v0")

    def reset(self, seed: int) -> Observation:
        """Draw a map and a mission."""
        with contextlib.redirect_stdout(None):  # MiniGrid prints the maps that it rejects
            obs, _ = self.env.reset(seed=seed)
        return self._observe(obs)

    def step(self, action: int) -> Outcome:
        """Take one step."""
        obs, reward, terminated, truncated, _ = self.env.step(action)
        return Outcome(self._observe(obs), float(reward), terminated, truncated and not terminated)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _observe(self, obs: dict[str, object]) -> Observation:
        frame = self.env.unwrapped.get_frame(tile_size=TILE, agent_pov=True)  # type: ignore[attr-defined]
        return Observation(np.array(frame, np.uint8), str(obs["mission"]))


def babyai(config: EnvConfig) -> Suite:
    """Make the suite; raises `MissingPackageError` without the `babyai` extra."""
    try:
        import minigrid  # noqa: F401
    except ImportError:
        raise MissingPackageError("minigrid", "babyai") from None
    refuse_action_repeat("babyai", config.action_repeat)
    levels = choose_levels("babyai", LEVELS, config.levels)
    return Suite(
        name="babyai",
        levels=levels,
        spaces=Spaces((7 * TILE, 7 * TILE, 3), "uint8", len(ACTIONS), len(levels), instructions=True),
        actions=ACTIONS,
        make_game=BabyAIGame,
    )
