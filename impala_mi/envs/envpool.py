"""Suite `envpool`: MiniGrid, BabyAI, Procgen and Atari, whose games EnvPool steps in batches in C++ threads.

Levels have EnvPool's ids; those of one configuration belong to one family. What the families have in common with
their literature, and where they differ from it, is in docs/envpool.md.
"""

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from impala_mi.config import EnvConfig
from impala_mi.envs import envpool_grid as grid
from impala_mi.envs.base import Level, Suite
from impala_mi.envs.batch import BatchedGame
from impala_mi.envs.choose import refuse_action_repeat
from impala_mi.envs.envpool_batch import PoolBatch
from impala_mi.envs.envpool_grid import State
from impala_mi.envs.envpool_levels import LEVELS, LISTS
from impala_mi.errors import MissingPackageError, UserError
from impala_mi.types import Spaces

ATARI_FRAMES = 108_000
"""Frames after which an Atari episode is cut off: half an hour of play."""
ATARI_PROTOCOLS = {
    "no_ops": {"noop_max": 30, "repeat_action_probability": 0.0},
    "sticky": {"noop_max": 1, "repeat_action_probability": 0.25},
}
"""EnvPool's settings of `env.envpool.atari`."""


def atari_truncated(state: State) -> np.ndarray:
    """Episodes [n] cut off at the frame limit before the game was over."""
    cut: np.ndarray = state["trunc"] & (state["info:terminated"] == 0)
    return cut


def procgen_truncated(state: State) -> np.ndarray:
    """Episodes [n] cut off at the step limit before their level was complete."""
    cut: np.ndarray = state["trunc"] & (state["info:prev_level_complete"] == 0)
    return cut


@dataclass(frozen=True)
class Family:
    """Levels that share observations and actions.

    Attributes:
        title: name of the family.
        frame_shape: shape of the frames.
        actions: names of the actions.
        frames: see `PoolBatch`.
        truncated: see `PoolBatch`.
        instructions: see `PoolBatch`.
        settings: EnvPool's settings for a configuration with this action repeat.
        picture: see `Suite`.
        action_repeat: default action repeat, or None if actions are single steps.
    """

    title: str
    frame_shape: tuple[int, ...]
    actions: tuple[str, ...]
    frames: Callable[[State], np.ndarray]
    truncated: Callable[[State], np.ndarray]
    instructions: Callable[[State], Sequence[str]] | None = None
    settings: Callable[[EnvConfig, int], Mapping[str, Any]] = lambda config, repeat: {}
    action_repeat: int | None = None
    picture: Callable[[np.ndarray], np.ndarray] = lambda frame: frame


def _atari_settings(config: EnvConfig, repeat: int) -> Mapping[str, Any]:
    return {
        "stack_num": 4, "img_height": 84, "img_width": 84, "gray_scale": True, "full_action_space": True,
        "frame_skip": repeat, "max_episode_steps": ATARI_FRAMES // repeat, "use_fire_reset": False,
        "episodic_life": False, "reward_clip": False, **ATARI_PROTOCOLS[config.envpool.atari],
    }  # fmt: skip


_MOVES = ("up", "right", "left", "down", "upright", "upleft", "downright", "downleft")
_PROCGEN_MOVES = ("downleft", "left", "upleft", "down", "stay", "up", "downright", "right", "upright")
FAMILIES = {
    "grid": Family(
        title="MiniGrid and BabyAI",
        frame_shape=(grid.SIDE, grid.SIDE, grid.PLANES),
        actions=("left", "right", "forward", "pickup", "drop", "toggle", "done"),
        frames=grid.frames,
        truncated=grid.truncated,
        instructions=grid.missions,
        picture=grid.picture,
    ),
    "procgen": Family(
        title="Procgen",
        frame_shape=(64, 64, 3),
        actions=(*_PROCGEN_MOVES, "d", "a", "w", "s", "q", "e"),
        frames=lambda state: state["obs"],
        truncated=procgen_truncated,
        settings=lambda config, repeat: {"channel_first": False},
    ),
    "atari": Family(
        title="Atari",
        frame_shape=(84, 84, 4),
        actions=("noop", "fire", *_MOVES, *(f"{move}fire" for move in _MOVES)),
        frames=lambda state: state["obs"].transpose(0, 2, 3, 1),
        truncated=atari_truncated,
        settings=_atari_settings,
        action_repeat=4,
    ),
}
BROKEN = ("BabyAI-SynthS5R2-v0",)
"""Levels of EnvPool 1.2.5 whose first reset never ends."""
_PACKAGES = {"envpool.minigrid": "grid", "envpool.procgen": "procgen", "envpool.atari": "atari"}
"""Family of the levels that a package of EnvPool registers."""
_LISTED = ", ".join(LISTS)


def envpool(config: EnvConfig) -> Suite:
    """Make the suite of `env.levels`.

    Raises `MissingPackageError` without the `envpool` extra, and `UserError` if the levels are unknown or cannot be
    trained together, or if Procgen's libraries are missing.
    """
    try:
        import envpool as engine
    except ImportError:
        raise MissingPackageError("envpool", "envpool") from None
    ids = _expand(config.levels)
    specs: Mapping[str, tuple[str, str, Mapping[str, Any]]] = engine.registration.registry.specs
    name = _common_family(ids, specs)
    family = FAMILIES[name]
    if name == "procgen":
        _check_procgen()
    if family.action_repeat is None:
        refuse_action_repeat(f"{family.title} of envpool", config.action_repeat)
    if name != "atari" and config.envpool.atari != "no_ops":
        raise UserError(f"env.envpool.atari={config.envpool.atari!r} belongs to Atari games, not to {ids[0]!r}")
    repeat = config.action_repeat or family.action_repeat or 1
    settings = family.settings(config, repeat)

    def make_batch(level: str, size: int) -> PoolBatch:
        return PoolBatch(level, size, settings, family.frames, family.truncated, family.instructions)

    return Suite(
        name="envpool",
        levels=tuple(LEVELS.get(level, Level(level)) for level in ids),
        spaces=Spaces(
            family.frame_shape, "uint8", len(family.actions), len(ids), instructions=family.instructions is not None
        ),
        actions=family.actions,
        make_game=functools.partial(BatchedGame, make_batch),
        make_batch=make_batch,
        action_repeat=repeat,
        picture=family.picture,
        scores_note=f"Atari protocol: {config.envpool.atari}" if name == "atari" else "",
    )


def _expand(levels: list[str] | str) -> list[str]:
    """The ids of `env.levels`, where the names of lists stand for their levels."""
    if isinstance(levels, str) or not levels:
        raise UserError(
            f"env.suite=envpool needs env.levels, a list of EnvPool's ids of one family, or one of {_LISTED}: for "
            "example [babyai40]"
        )
    ids = [level for name in levels for level in LISTS.get(name, (name,))]
    for i, level in enumerate(ids):
        if level in ids[:i]:
            raise UserError(f"env.levels: {level!r} is given twice")
    return ids


def _common_family(ids: Sequence[str], specs: Mapping[str, tuple[str, str, Mapping[str, Any]]]) -> str:
    """Name of the family of all ids; raises `UserError` if there is none."""
    known = {level: _PACKAGES[spec[0]] for level, spec in specs.items() if spec[0] in _PACKAGES}
    for level in ids:
        if level not in known:
            close = difflib.get_close_matches(level, [*known, *LISTS], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"lists of levels are {_LISTED}"
            raise UserError(f"env.levels: no MiniGrid, BabyAI, Procgen or Atari level {level!r} in EnvPool; {hint}")
        if level in BROKEN:
            raise UserError(f"env.levels: {level!r} hangs in EnvPool 1.2.5, which never finishes its map")
        if known[level] != known[ids[0]]:
            raise UserError(
                f"env.levels: {ids[0]!r} and {level!r} cannot be trained together: {FAMILIES[known[ids[0]]].title} "
                f"against {FAMILIES[known[level]].title}"
            )
        if known[level] == "grid" and (most := specs[level][2].get("action_max", 6)) != 6:
            raise UserError(f"env.levels: {level!r} has {most + 1} actions, but the levels of its family have 7")
    return known[ids[0]]


def _check_procgen() -> None:
    try:
        from envpool.procgen import ProcgenEnvSpec  # noqa: F401
    except ImportError as e:
        raise UserError(
            "EnvPool's Procgen needs Qt 5, which is not installed; install it with: apt-get install libqt5gui5 "
            f"({str(e).splitlines()[0]})"
        ) from None
