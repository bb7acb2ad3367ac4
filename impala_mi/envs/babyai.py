"""BabyAI and MiniGrid levels with their missions as instructions.

Frames are the agent's own partial view drawn at 8 pixels a tile (56x56x3). Random scores: 500 episodes each of
uniformly random actions; reference scores: 500 episodes each of BabyAI's own bot, which knows the whole map. Both
measured with `benchmarks/babyai_scores.py`.
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
_BOT = "BabyAI's bot, 500 episodes"
LEVELS = (
    Level("GoToRedBallGrey", None, None, _BOT),
    Level("GoToRedBall", None, None, _BOT),
    Level("GoToObj", None, None, _BOT),
    Level("GoToLocal", None, None, _BOT),
    Level("PickupLoc", None, None, _BOT),
    Level("PickupDist", None, None, _BOT),
    Level("OpenDoor", None, None, _BOT),
    Level("OpenRedDoor", None, None, _BOT),
    Level("PutNextLocal", None, None, _BOT),
    Level("ActionObjDoor", None, None, _BOT),
    Level("UnlockLocal", None, None, _BOT),
    Level("GoToDoor", None, None, _BOT),
)


class BabyAIGame(Game):
    """One level."""

    def __init__(self, level: str) -> None:
        import gymnasium
        import minigrid  # noqa: F401  registers the ids

        self.env = gymnasium.make(f"BabyAI-{level}-v0")

    def reset(self, seed: int) -> Observation:
        """Draw a map and a mission."""
        with contextlib.redirect_stdout(None):  # MiniGrid prints the maps that it rejects
            seen, _ = self.env.reset(seed=seed)
        return self._observe(seen)

    def step(self, action: int) -> Outcome:
        """Act once."""
        seen, reward, terminated, truncated, _ = self.env.step(action)
        return Outcome(self._observe(seen), float(reward), terminated, truncated and not terminated)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _observe(self, seen: dict[str, object]) -> Observation:
        frame = self.env.unwrapped.get_frame(tile_size=TILE, agent_pov=True)  # type: ignore[attr-defined]
        return Observation(np.array(frame, np.uint8), str(seen["mission"]))


def babyai(config: EnvConfig) -> Suite:
    """The suite; raises `MissingPackageError` without the `babyai` extra."""
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
