"""Unrolls of several actors side by side: NumPy views of shared memory to one batch of tensors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from impala_mi.types import AgentInput, CoreState, Finals, Transitions

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


def to_device(batch: Transitions, device: torch.device) -> Transitions:
    """A batch for the learner, without waiting for the copies to be done.

    What decides which work there is (episode starts, instructions, where episodes were cut off) stays in the host's
    memory, so that nothing needs to be read back from a GPU.
    """

    def there(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    inputs, finals = batch.inputs, batch.finals
    return Transitions(
        inputs=inputs._replace(
            frame=there(inputs.frame),
            last_action=there(inputs.last_action),
            last_reward=there(inputs.last_reward),
            level=there(inputs.level),
        ),
        action=there(batch.action),
        logits=there(batch.logits),
        reward=there(batch.reward),
        terminated=there(batch.terminated),
        truncated=there(batch.truncated),
        state=CoreState(*map(there, batch.state)),
        finals=finals._replace(frame=there(finals.frame)),
    )
