"""A colour and a marker for each level; levels of one family look alike."""

import colorsys
from collections.abc import Sequence

from impala_mi.envs.scores import family

Colour = tuple[float, float, float]
MARKERS = "o^sDvP*X<>"
"""Matplotlib's names of markers."""
SYMBOLS = ("circle", "triangle-up", "square", "diamond", "triangle-down", "cross", "star", "x", "triangle-left",
           "triangle-right")  # fmt: skip
"""Plotly's names, in the same order."""


def families(levels: Sequence[str]) -> dict[str, list[int]]:
    """Level indices by family; if all levels are of one family, each is its own."""
    by_family: dict[str, list[int]] = {}
    for k, level in enumerate(levels):
        by_family.setdefault(family(level), []).append(k)
    return by_family if len(by_family) > 1 else {level: [k] for k, level in enumerate(levels)}


def palette(levels: Sequence[str]) -> list[tuple[Colour, int]]:
    """RGB in [0, 1] and the marker's index by level: one hue per family, a lightness and a marker per member."""
    by_family = families(levels)
    out: list[tuple[Colour, int]] = [((0.0, 0.0, 0.0), 0)] * len(levels)
    for i, members in enumerate(by_family.values()):
        for j, level in enumerate(members):
            at = (j + 1) / (len(members) + 1)  # 0.5 for a single member
            hue = (i + 0.5 * (at - 0.5)) / len(by_family)
            marker = i if len(members) == 1 and len(by_family) > 8 else j
            out[level] = (colorsys.hls_to_rgb(hue % 1, 0.3 + 0.4 * at, 0.85), marker % len(MARKERS))
    return out
