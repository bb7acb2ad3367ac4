"""Unrolls of several actors side by side: NumPy views of shared memory to one batch of tensors."""

from collections.abc import Sequence

import numpy as np
import torch

from impala_mi.types import AgentInput, CoreState, Finals, Transitions


def stack(unrolls: Sequence[Transitions], device: torch.device) -> Transitions:
    """Join unrolls along B into tensors on `device`; each array is copied once."""

    def join(arrays: Sequence[np.ndarray], dim: int) -> torch.Tensor:
        # Always a copy: the arrays may be read-only views into the object store.
        tensor = torch.from_numpy(np.concatenate(arrays, dim))
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

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
