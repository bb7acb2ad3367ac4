"""Unrolls of several actors side by side: NumPy views of shared memory to one batch of tensors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from impala_mi.nn.instruction import distinct_rows, instructions
from impala_mi.types import NO_TOKEN, AgentInput, CoreState, Finals, Instructions, Transitions, map_arrays

_FEWEST = 8
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
        finals=Finals(
            time=join([u.finals.time for u in unrolls], 0),
            column=join([u.finals.column + o for u, o in zip(unrolls, offsets, strict=False)], 0),
            frame=join([u.finals.frame for u in unrolls], 0),
            tokens=join([u.finals.tokens for u in unrolls], 0),
        ),
    )


def to_device(batch: Transitions, device: torch.device, even_shapes: bool = False) -> Transitions:
    """A batch for the learner, without waiting for the copies to be done.

    What decides which work there is (episode starts, instructions, where episodes were cut off) stays in the host's
    memory, so that nothing needs to be read back from a GPU. With `even_shapes` the work is the same whatever they
    say, as far as shapes go, and all is there: see `even`.
    """

    def there(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    if even_shapes:
        return map_arrays(even(batch), there)
    inputs, finals = batch.inputs, batch.finals
    moved = map_arrays(
        batch._replace(
            inputs=inputs._replace(tokens=None, first=None), finals=Finals(None, None, finals.frame, None)
        ),
        there,
    )
    return moved._replace(
        inputs=moved.inputs._replace(tokens=inputs.tokens, first=inputs.first),
        finals=finals._replace(frame=moved.finals.frame),
    )


def even(batch: Transitions) -> Transitions:
    """A batch in the host's memory with instructions and final observations padded to powers of two.

    Such batches come in few different shapes. What is padded belongs to step T, which no transition has. The padded
    arrays are new ones: a GPU's copy of them is not from page-locked memory.
    """
    inputs, finals = batch.inputs, batch.finals
    steps, count = len(batch.action), len(finals.time)
    most = max(_FEWEST, _power_of_two(count)) if count else 0

    def padded(tensor: torch.Tensor, value: int = 0) -> torch.Tensor:
        return torch.cat([tensor, tensor.new_full((most - count, *tensor.shape[1:]), value)])

    finals = Finals(
        padded(finals.time, steps), padded(finals.column), padded(finals.frame), padded(finals.tokens, NO_TOKEN)
    )
    if inputs.tokens.shape[-1]:
        inputs = inputs._replace(tokens=_distinct(inputs.tokens.numpy()))
        finals = finals._replace(tokens=_distinct(finals.tokens.unsqueeze(0).numpy(), most)) if most else finals
    return batch._replace(inputs=inputs, finals=finals)


def _distinct(tokens: np.ndarray, count: int | None = None) -> Instructions:
    """So many rows, or the next power of two."""
    rows, which = distinct_rows(tokens)
    padded = np.full((count or _power_of_two(len(rows)), rows.shape[1]), NO_TOKEN, rows.dtype)
    padded[: len(rows)] = rows
    return instructions(padded, which)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
