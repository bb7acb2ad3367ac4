"""Instructions in words to numbers, the same in every process and on every machine."""

import zlib

import numpy as np

from impala_mi.types import NO_TOKEN

BUCKETS = 1000


def tokenize(instruction: str, length: int) -> np.ndarray:
    """int32 [length]: CRC-32 of each lower-case word modulo 1000, then NO_TOKEN.

    Python's own hash differs from process to process. Words beyond `length` are dropped.
    """
    out = np.full(length, NO_TOKEN, np.int32)
    for i, word in enumerate(instruction.lower().split()[:length]):
        out[i] = zlib.crc32(word.encode()) % BUCKETS
    return out
