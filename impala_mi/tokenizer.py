"""Instructions to numbers, the same in every process and on every machine."""

import zlib

import numpy as np

from impala_mi.types import NO_TOKEN

BUCKETS = 1000


def tokenize(instruction: str, length: int) -> np.ndarray:
    """CRC-32 of each lower-case word modulo `BUCKETS`, padded with NO_TOKEN: int32 [length].

    Words beyond `length` are dropped. Python's own hash differs between processes, so it is not used.
    """
    tokens = np.full(length, NO_TOKEN, np.int32)
    for i, word in enumerate(instruction.lower().split()[:length]):
        tokens[i] = zlib.crc32(word.encode()) % BUCKETS
    return tokens
