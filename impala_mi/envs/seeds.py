"""Seeds of episodes."""

import zlib
from collections.abc import Sequence

import numpy as np


class EpisodeSeeds:
    """Seeds of the episodes of a level: a fixed list without repeats that all environments of the level share.

    The list does not depend on the number of actors, so maps built for one run serve every later run with its root.

    Args:
        root: numbers that determine the list together with the level, first of all the run's seed.
        level: name of the level.
        first, stride: this environment takes every stride-th seed of the list, starting at `first`.
    """

    def __init__(self, root: Sequence[int], level: str, first: int = 0, stride: int = 1) -> None:
        key = np.random.SeedSequence(list(root), spawn_key=(zlib.crc32(level.encode()),))
        self._offset, self._factor = (int(word) for word in key.generate_state(2))
        self._next, self._stride = first, stride

    def take(self) -> int:
        """The next seed, in [0, 2^31). Each operation is a bijection of these numbers, so no seed repeats."""
        mask = 2**31 - 1
        seed = (self._offset + self._next * (self._factor | 1)) & mask
        for _ in range(2):
            seed ^= seed >> 15
            seed = seed * 0x45D9F3B & mask
        self._next += self._stride
        return seed ^ seed >> 16
