"""Batching: rollouts of several actors side by side, from NumPy views of shared memory to one batch of tensors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from impala_mi.nn.instruction import distinct_rows, instructions
from impala_mi.types import (
    NO_FINALS,
    NO_TOKEN,
    FinalObservations,
    Instructions,
    Transitions,
    map_arrays,
    zip_arrays,
)

_MIN_FINALS = 8
"""Smallest padded number of final observations, for a batch with at least one."""

Join = Callable[[Sequence[np.ndarray], int], torch.Tensor]
"""Function that joins arrays along a dimension to a tensor in host memory."""


def concatenate(arrays: Sequence[np.ndarray], dim: int) -> torch.Tensor:
    """`Join` that always copies, because the arrays may be read-only views into the object store."""
    return torch.from_numpy(np.concatenate(arrays, dim))


def stack(rollouts: Sequence[Transitions], join: Join = concatenate) -> Transitions:
    """Batch of rollouts side by side along B, in host memory; each array is copied once."""
    offsets = np.cumsum([0, *(r.action.shape[1] for r in rollouts)])
    finals = [
        r.final_observations._replace(column=r.final_observations.column + offset)
        for r, offset in zip(rollouts, offsets, strict=False)
    ]
    parts = [r._replace(state=(), final_observations=NO_FINALS) for r in rollouts]
    return zip_arrays(parts, lambda arrays: join(arrays, 1))._replace(
        state=zip_arrays([r.state for r in rollouts], lambda arrays: join(arrays, 0)),
        final_observations=zip_arrays(finals, lambda arrays: join(arrays, 0)),
    )


def to_device(batch: Transitions, device: torch.device, padded: bool = False) -> Transitions:
    """Batch on the learner's device, without waiting for the copies.

    Arrays that control flow depends on (episode starts, instructions, places of truncations) stay in host memory,
    so that nothing must be read back from a GPU. A `padded` batch moves as a whole, see `pad_to_buckets`.
    """

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    if padded:
        return map_arrays(pad_to_buckets(batch), moved)
    inputs, finals = batch.inputs, batch.final_observations
    without = batch._replace(
        inputs=inputs._replace(tokens=None, first=None),
        final_observations=FinalObservations(None, None, finals.frame, None),
    )
    on_device = map_arrays(without, moved)
    return on_device._replace(
        inputs=on_device.inputs._replace(tokens=inputs.tokens, first=inputs.first),
        final_observations=finals._replace(frame=on_device.final_observations.frame),
    )


def pad_to_buckets(batch: Transitions) -> Transitions:
    """Batch in host memory whose instructions and final observations are padded to powers of two.

    Such batches have few different shapes. Padded final observations have time T, so they match no transition. The
    padded arrays are new ones: their copy to a GPU is not from page-locked memory.
    """
    inputs, finals = batch.inputs, batch.final_observations
    steps, count = len(batch.action), len(finals.time)
    size = max(_MIN_FINALS, _power_of_two(count)) if count else 0

    def padded(tensor: torch.Tensor, value: int = 0) -> torch.Tensor:
        return torch.cat([tensor, tensor.new_full((size - count, *tensor.shape[1:]), value)])

    finals = FinalObservations(
        padded(finals.time, steps), padded(finals.column), padded(finals.frame), padded(finals.tokens, NO_TOKEN)
    )
    if inputs.tokens.shape[-1]:
        inputs = inputs._replace(tokens=_distinct(inputs.tokens.numpy()))
        if size:
            finals = finals._replace(tokens=_distinct(finals.tokens.unsqueeze(0).numpy(), size))
    return batch._replace(inputs=inputs, final_observations=finals)


def _distinct(tokens: np.ndarray, count: int | None = None) -> Instructions:
    """Distinct instructions, padded to `count` rows or the next power of two."""
    rows, per_step = distinct_rows(tokens)
    padded = np.full((count or _power_of_two(len(rows)), rows.shape[1]), NO_TOKEN, rows.dtype)
    padded[: len(rows)] = rows
    return instructions(padded, per_step)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
