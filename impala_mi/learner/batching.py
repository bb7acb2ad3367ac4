"""Unrolls of several actors side by side: NumPy views of shared memory to one batch of tensors."""

from collections.abc import Sequence

import numpy as np
import torch

from impala_mi.types import AgentInput, CoreState, Finals, Transitions


def stack(unrolls: Sequence[Transitions], device: torch.device) -> Transitions:
    """Join unrolls along B into tensors on `device`; each array is copied once.

    What decides which work there is (episode starts, instructions, where episodes were cut off) stays in the host's
    memory, so that nothing needs to be read back from a GPU.
    """

    def here(arrays: Sequence[np.ndarray], dim: int) -> torch.Tensor:
        # Always a copy: the arrays may be read-only views into the object store.
        return torch.from_numpy(np.concatenate(arrays, dim))

    def join(arrays: Sequence[np.ndarray], dim: int) -> torch.Tensor:
        tensor = here(arrays, dim)
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    offsets = np.cumsum([0, *(u.action.shape[1] for u in unrolls)])
    return Transitions(
        inputs=AgentInput(
            frame=join([u.inputs.frame for u in unrolls], 1),
            tokens=here([u.inputs.tokens for u in unrolls], 1),
            last_action=join([u.inputs.last_action for u in unrolls], 1),
            last_reward=join([u.inputs.last_reward for u in unrolls], 1),
            first=here([u.inputs.first for u in unrolls], 1),
            level=join([u.inputs.level for u in unrolls], 1),
        ),
        action=join([u.action for u in unrolls], 1),
        logits=join([u.logits for u in unrolls], 1),
        reward=join([u.reward for u in unrolls], 1),
        terminated=join([u.terminated for u in unrolls], 1),
        truncated=join([u.truncated for u in unrolls], 1),
        state=CoreState(*(join(a, 0) for a in zip(*(u.state for u in unrolls), strict=True))),
        finals=Finals(
            time=here([u.finals.time for u in unrolls], 0),
            column=here([u.finals.column + o for u, o in zip(unrolls, offsets, strict=False)], 0),
            frame=join([u.finals.frame for u in unrolls], 0),
            tokens=here([u.finals.tokens for u in unrolls], 0),
        ),
    )
