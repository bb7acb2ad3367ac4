"""Seeds of episodes."""

import zlib
from collections.abc import Sequence

import numpy as np


class EpisodeSeeds:
    """Seeds of a level's episodes: the same list for every arrangement of actors, and no seed in it twice.

    So maps that were built for one run with this root serve all later ones.

    Args:
        root: what the list depends on beside the level, the run's seed above all.
        level: name of the level.
        first, stride: this environment takes every stride-th of the list, from the first-th on.
    """

    def __init__(self, root: Sequence[int], level: str, first: int = 0, stride: int = 1) -> None:
        key = np.random.SeedSequence(list(root), spawn_key=(zlib.crc32(level.encode()),))
        self._offset, self._factor = (int(word) for word in key.generate_state(2))
        self._next, self._stride = first, stride

    def take(self) -> int:
        """The next seed, in [0, 2^31): each operation maps these numbers one to one, so none comes twice."""
        mask = 2**31 - 1
        seed = (self._offset + self._next * (self._factor | 1)) & mask
        for _ in range(2):
            seed ^= seed >> 15
            seed = seed * 0x45D9F3B & mask
        self._next += self._stride
        return seed ^ seed >> 16
