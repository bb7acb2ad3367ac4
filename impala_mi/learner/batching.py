"""Unrolls of several actors side by side: NumPy views of shared memory to one batch of tensors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from impala_mi.nn.instruction import distinct_rows, instructions
from impala_mi.types import (
    NO_TOKEN,
    AgentInput,
    CoreState,
    FinalObservations,
    Instructions,
    Transitions,
    map_arrays,
)

_MIN_FINALS = 8
"""Final observations in an even batch that has some."""

Join = Callable[[Sequence[np.ndarray], int], torch.Tensor]
"""Arrays along a dimension to a tensor in the host's memory."""


def concatenate(arrays: Sequence[np.ndarray], dim: int) -> torch.Tensor:
    """A `Join`; always a copy, as the arrays may be read-only views into the object store."""
    return torch.from_numpy(np.concatenate(arrays, dim))


def stack(unrolls: Sequence[Transitions], join: Join = concatenate) -> Transitions:
    """Join unrolls along B in the host's memory; each array is copied once."""
    offsets = np.cumsum([0, *(u.action.shape[1] for u in unrolls)])
    return Transitions(
        inputs=AgentInput(*(join(a, 1) for a in zip(*(u.inputs for u in unrolls), strict=True))),
        action=join([u.action for u in unrolls], 1),
        logits=join([u.logits for u in unrolls], 1),
        reward=join([u.reward for u in unrolls], 1),
        terminated=join([u.terminated for u in unrolls], 1),
        truncated=join([u.truncated for u in unrolls], 1),
        state=CoreState(*(join(a, 0) for a in zip(*(u.state for u in unrolls), strict=True))),
        final_observations=FinalObservations(
            time=join([u.final_observations.time for u in unrolls], 0),
            column=join([u.final_observations.column + o for u, o in zip(unrolls, offsets, strict=False)], 0),
            frame=join([u.final_observations.frame for u in unrolls], 0),
            tokens=join([u.final_observations.tokens for u in unrolls], 0),
        ),
    )


def to_device(batch: Transitions, device: torch.device, padded: bool = False) -> Transitions:
    """A batch for the learner, without waiting for the copies to be done.

    What decides which work there is (episode starts, instructions, where episodes were cut off) stays in the host's
    memory, so that nothing needs to be read back from a GPU. With `even_shapes` the work is the same whatever they
    say, as far as shapes go, and all is there: see `even`.
    """

    def there(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    if padded:
        return map_arrays(pad_to_buckets(batch), there)
    inputs, final_observations = batch.inputs, batch.final_observations
    moved = map_arrays(
        batch._replace(
            inputs=inputs._replace(tokens=None, first=None),
            final_observations=FinalObservations(None, None, final_observations.frame, None),
        ),
        there,
    )
    return moved._replace(
        inputs=moved.inputs._replace(tokens=inputs.tokens, first=inputs.first),
        final_observations=final_observations._replace(frame=moved.final_observations.frame),
    )


def pad_to_buckets(batch: Transitions) -> Transitions:
    """A batch in the host's memory with instructions and final observations padded to powers of two.

    Such batches come in few different shapes. What is padded belongs to step T, which no transition has. The padded
    arrays are new ones: a GPU's copy of them is not from page-locked memory.
    """
    inputs, final_observations = batch.inputs, batch.final_observations
    steps, count = len(batch.action), len(final_observations.time)
    most = max(_MIN_FINALS, _power_of_two(count)) if count else 0

    def padded(tensor: torch.Tensor, value: int = 0) -> torch.Tensor:
        return torch.cat([tensor, tensor.new_full((most - count, *tensor.shape[1:]), value)])

    final_observations = FinalObservations(
        padded(final_observations.time, steps),
        padded(final_observations.column),
        padded(final_observations.frame),
        padded(final_observations.tokens, NO_TOKEN),
    )
    if inputs.tokens.shape[-1]:
        inputs = inputs._replace(tokens=_distinct(inputs.tokens.numpy()))
        final_observations = (
            final_observations._replace(tokens=_distinct(final_observations.tokens.unsqueeze(0).numpy(), most))
            if most
            else final_observations
        )
    return batch._replace(inputs=inputs, final_observations=final_observations)


def _distinct(tokens: np.ndarray, count: int | None = None) -> Instructions:
    """So many rows, or the next power of two."""
    rows, which = distinct_rows(tokens)
    padded = np.full((count or _power_of_two(len(rows)), rows.shape[1]), NO_TOKEN, rows.dtype)
    padded[: len(rows)] = rows
    return instructions(padded, which)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
