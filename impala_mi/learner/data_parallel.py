"""An update on several threads of a CPU: each learns from some columns of the batch, and their gradients add up.

Threads that share each operation wait for each other at hundreds of them; those with columns of their own wait for
each other once an update.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

from impala_mi.types import CoreState, FinalObservations, Transitions, map_arrays

R = TypeVar("R")

MIN_SHARD = 8
"""Columns of a part: products of fewer rows leave a core's vector units waiting for weights."""


def split(batch: Transitions, parts: int) -> list[Transitions]:
    """Views [T+1, B / parts, ...] of a batch's columns, next to each other; as even as they can be."""
    width = batch.action.shape[1]
    return [_columns(batch, a, b) for a, b in pairwise(i * width // parts for i in range(parts + 1))]


def _columns(batch: Transitions, begin: int, end: int) -> Transitions:
    def steps(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:, begin:end]

    finals = batch.final_observations
    here = (finals.column >= begin) & (finals.column < end)
    return Transitions(
        inputs=map_arrays(batch.inputs, steps),
        action=steps(batch.action), logits=steps(batch.logits), reward=steps(batch.reward),
        terminated=steps(batch.terminated), truncated=steps(batch.truncated),
        state=CoreState(*(part[begin:end] for part in batch.state)),
        final_observations=FinalObservations(
            finals.time[here], finals.column[here] - begin, finals.frame[here], finals.tokens[here]
        ),
    )  # fmt: skip


class ShardPool:
    """Threads that learn from parts of a batch at once.

    Args:
        parts: of a batch.
        threads: of PyTorch, for all of them together.
    """

    def __init__(self, parts: int, threads: int) -> None:
        self._parts = parts
        # The last call also decides for threads that begin later: a learner's process has no others that compute.
        self._pool = ThreadPoolExecutor(parts, "columns", torch.set_num_threads, (threads // parts,))

    def map(self, work: Callable[[Transitions], R], batch: Transitions) -> list[R]:
        """`work` on each part, in the order of columns."""
        return list(self._pool.map(work, split(batch, self._parts)))


def make_shard_pool(width: int, threads: int) -> ShardPool | None:
    """For batches of so many columns; None where one thread, or all together, do as well.

    As many parts as have the same number of threads and are not too narrow.
    """
    most = min(threads, width // MIN_SHARD)
    parts = next((n for n in range(most, 1, -1) if threads % n == 0), 1)
    return ShardPool(parts, threads) if parts > 1 else None
