"""A look at what is learnt from: frames of one environment, and what the head makes of them."""

import numpy as np
import torch

from impala_mi.learner.batching import stack, to_device
from impala_mi.nn.agent import Agent
from impala_mi.types import CoreState, FinalObservations, RolloutPreview, Transitions, map_arrays

FRAMES = 16


def one_column(unroll: Transitions, column: int) -> Transitions:
    """A copy of one environment's unroll that outlives where it comes from; without final observations."""

    def copied(array: np.ndarray) -> np.ndarray:
        return array[:, column : column + 1].copy()

    return Transitions(
        map_arrays(unroll.inputs, copied),
        action=copied(unroll.action),
        logits=copied(unroll.logits),
        reward=copied(unroll.reward),
        terminated=copied(unroll.terminated),
        truncated=copied(unroll.truncated),
        state=CoreState(*(array[column : column + 1].copy() for array in unroll.state)),
        final_observations=FinalObservations(*(array[:0].copy() for array in unroll.final_observations)),
    )


@torch.no_grad()
def sample(agent: Agent, column: Transitions, device: torch.device, pad_to_buckets: bool) -> RolloutPreview:
    """What the agent makes of an unroll of one environment [T+1, 1, ...]."""
    batch = to_device(stack([column]), device, pad_to_buckets)
    core = agent(batch.inputs, batch.state).core.flatten(0, 1)
    level = batch.inputs.level.flatten()
    vectors = agent.head.vectors(core, level)
    frames = column.inputs.frame[:, 0]
    spread = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    return RolloutPreview(
        int(column.inputs.level[0, 0]),
        frames[spread] if frames.ndim == 4 else None,
        {k: v.float().cpu().numpy() for k, v in vectors.items()},
    )
