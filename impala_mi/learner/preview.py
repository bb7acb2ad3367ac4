"""Previews: frames of a recent rollout, and the context and generated weights that the head computes for it."""

import numpy as np
import torch

from impala_mi.learner.batching import stack, to_device
from impala_mi.nn.agent import Agent
from impala_mi.types import NO_FINALS, RolloutPreview, Transitions, map_arrays

FRAMES = 16
"""Frames of a preview at most."""


def one_column(rollout: Transitions, column: int) -> Transitions:
    """Copy of one environment's unroll, without final observations; it does not keep the rollout alive."""
    columns = slice(column, column + 1)
    steps = rollout._replace(state=(), final_observations=NO_FINALS)
    parts = map_arrays(steps, lambda array: array[:, columns].copy())
    return parts._replace(
        state=map_arrays(rollout.state, lambda array: array[columns].copy()),
        final_observations=map_arrays(rollout.final_observations, lambda array: array[:0].copy()),
    )


@torch.no_grad()
def preview(agent: Agent, column: Transitions, device: torch.device, pad_to_buckets: bool) -> RolloutPreview:
    """Preview of an unroll of one environment [T+1, 1, ...]."""
    batch = to_device(stack([column]), device, pad_to_buckets)
    core = agent(batch.inputs, batch.state).core.flatten(0, 1)
    vectors = agent.head.vectors(core, batch.inputs.level.flatten())
    frames = column.inputs.frame[:, 0]
    spread = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    return RolloutPreview(
        int(column.inputs.level[0, 0]),
        frames[spread] if frames.ndim == 4 else None,
        {k: v.float().cpu().numpy() for k, v in vectors.items()},
    )
