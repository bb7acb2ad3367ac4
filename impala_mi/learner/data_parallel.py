"""Data-parallel shards: threads of a CPU learn from some columns of a batch each, and their gradients are summed.

Threads that share each operation wait for each other at hundreds of operations; those with columns of their own
wait once per update.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

from impala_mi.nn.precision import compute_with
from impala_mi.types import NO_FINALS, FinalObservations, Transitions, map_arrays

R = TypeVar("R")

MIN_SHARD = 8
"""Columns of a shard at least: products of fewer rows leave a core's vector units waiting for weights."""


def split(batch: Transitions, parts: int) -> list[Transitions]:
    """Shards [T+1, B / parts, ...] of adjacent columns of a batch, as views; widths differ by at most one."""
    width = batch.action.shape[1]
    return [_columns(batch, a, b) for a, b in pairwise(i * width // parts for i in range(parts + 1))]


def _columns(batch: Transitions, begin: int, end: int) -> Transitions:
    finals = batch.final_observations
    inside = (finals.column >= begin) & (finals.column < end)
    parts = map_arrays(batch._replace(state=(), final_observations=NO_FINALS), lambda tensor: tensor[:, begin:end])
    return parts._replace(
        state=map_arrays(batch.state, lambda tensor: tensor[begin:end]),
        final_observations=FinalObservations(
            finals.time[inside], finals.column[inside] - begin, finals.frame[inside], finals.tokens[inside]
        ),
    )


class ShardPool:
    """Threads that compute with the shards of a batch in parallel.

    Args:
        parts: shards of a batch.
        threads: PyTorch's threads, for all shards together.
    """

    def __init__(self, parts: int, threads: int) -> None:
        self._parts = parts
        # The setting also holds for threads that start later: a learner's process computes in no others.
        self._pool = ThreadPoolExecutor(parts, "shards", compute_with, (threads // parts,))

    def map(self, work: Callable[[Transitions], R], batch: Transitions) -> list[R]:
        """Results of `work` on each shard, in the order of columns."""
        return list(self._pool.map(work, split(batch, self._parts)))


def make_shard_pool(width: int, threads: int) -> ShardPool | None:
    """Pool for batches of `width` columns, or None if sharding would not help.

    The number of shards is the largest that divides `threads` and leaves each at least `MIN_SHARD` columns.
    """
    limit = min(threads, width // MIN_SHARD)
    parts = next((n for n in range(limit, 1, -1) if threads % n == 0), 1)
    return ShardPool(parts, threads) if parts > 1 else None
