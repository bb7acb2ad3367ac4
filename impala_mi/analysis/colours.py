"""A colour and a marker for each level; levels of one family look alike."""

import colorsys
from collections.abc import Sequence

from impala_mi.envs.scores import family

Colour = tuple[float, float, float]
MARKERS = "o^sDvP*X<>"
"""Matplotlib's names."""
SYMBOLS = ("circle", "triangle-up", "square", "diamond", "triangle-down", "cross", "star", "x", "triangle-left",
           "triangle-right")  # fmt: skip
"""Plotly's, in the same order."""


def families(levels: Sequence[str]) -> dict[str, list[int]]:
    """Level indices by family; each level on its own where all are of one."""
    found: dict[str, list[int]] = {}
    for k, level in enumerate(levels):
        found.setdefault(family(level), []).append(k)
    return found if len(found) > 1 else {level: [k] for k, level in enumerate(levels)}


def palette(levels: Sequence[str]) -> list[tuple[Colour, int]]:
    """RGB in [0, 1] and the marker's index for each level: a hue a family, a lightness and a marker a member."""
    found = families(levels)
    out: list[tuple[Colour, int]] = [((0.0, 0.0, 0.0), 0)] * len(levels)
    for i, members in enumerate(found.values()):
        for j, level in enumerate(members):
            at = (j + 1) / (len(members) + 1)  # 0.5 for one alone
            hue = (i + 0.5 * (at - 0.5)) / len(found)
            alone = len(members) == 1
            out[level] = (
                colorsys.hls_to_rgb(hue % 1, 0.3 + 0.4 * at, 0.85),
                i % len(MARKERS) if alone and len(found) > 8 else j % len(MARKERS),
            )
    return out
