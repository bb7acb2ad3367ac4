"""Observations of MiniGrid: the agent's view as one-hot planes and as a picture, missions, and ends of episodes."""

from collections.abc import Mapping

import numpy as np

State = Mapping[str, np.ndarray]
"""Arrays [n, ...] of a step by EnvPool's names."""
KINDS = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
"""Kinds of objects, as MiniGrid numbers them."""
COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (112, 39, 195), (255, 255, 0), (100, 100, 100)], np.uint8
)
"""RGB of MiniGrid's colours: red, green, blue, purple, yellow, grey."""
DOORS = ("open", "closed", "locked")
"""States of a door."""
SIDE = 7
"""Cells of a side of the view; the agent is in the middle of the last row and looks up."""
TILE = 8
"""Pixels of a side of a cell in pictures."""

_SIZES = (len(KINDS), len(COLOURS), len(DOORS))
PLANES = sum(_SIZES)
"""Planes of a cell: kind, colour and state, each one-hot."""
_TABLE = 255 * np.concatenate(
    [np.eye(n, dtype=np.uint8)[v] for n, v in zip(_SIZES, np.indices(_SIZES).reshape(3, -1), strict=True)], axis=1
)
_CODE = np.array([_SIZES[1] * _SIZES[2], _SIZES[2], 1])
"""Weights of kind, colour and state in the row of `_TABLE`."""


def frames(state: State) -> np.ndarray:
    """Frames [n, 7, 7, 20] of MiniGrid's partial view [n, 7, 7, 3]; the first axis of a view is its x."""
    return _TABLE[state["obs:image"] @ _CODE]


def truncated(state: State) -> np.ndarray:
    """Episodes [n] that reached the time limit; EnvPool also counts those that ended by themselves in that step."""
    cut: np.ndarray = state["trunc"] & (state["reward"] == 0)
    return cut


def missions(state: State) -> list[str]:
    """The n missions, which EnvPool gives as bytes [n, 512] padded with zeros."""
    return [row.tobytes().split(b"\0", 1)[0].decode() for row in state["obs:mission"]]


def _masks() -> np.ndarray:
    """Shapes [kinds, doors, TILE, TILE] of objects in a cell, bool."""
    y, x = np.mgrid[:TILE, :TILE] - (TILE - 1) / 2
    radius, edge = np.hypot(x, y), np.maximum(abs(x), abs(y))
    full, rim, disc = edge < TILE, edge > TILE / 2 - 1, radius < TILE / 3
    shapes = dict.fromkeys(KINDS, np.zeros((TILE, TILE), bool)) | {
        "wall": full, "goal": full, "lava": (np.arange(TILE) % 3 > 0)[:, None] & full, "floor": (x + y) % 2 == 0,
        "key": (abs(x) < 1) | ((radius < TILE / 4) & (y < 0)), "ball": disc, "box": edge < TILE / 3,
    }  # fmt: skip
    shapes["box"] = shapes["box"] & ~(edge < TILE / 3 - 1)
    masks = np.stack([np.stack([shapes[kind]] * len(DOORS)) for kind in KINDS])
    masks[KINDS.index("door")] = rim & (x < 2 - TILE / 2), rim | (radius < 1), rim | (abs(y) < 1)
    return masks


_MASKS = _masks()


def picture(frame: np.ndarray) -> np.ndarray:
    """Picture [56, 56, 3] of a frame [7, 7, 20]: objects in their colours on black, unseen cells dark grey."""
    kind, colour, door = (part.argmax(-1).T for part in np.split(frame, np.cumsum(_SIZES)[:-1], axis=-1))
    ink = COLOURS[colour]
    ink[kind == KINDS.index("lava")] = (255, 128, 0)
    paper = np.where(kind == KINDS.index("unseen"), 40, 0)[..., None, None, None]
    tiles = np.where(_MASKS[kind, door][..., None], ink[:, :, None, None], paper)
    return tiles.swapaxes(1, 2).reshape(SIDE * TILE, SIDE * TILE, 3).astype(np.uint8)
