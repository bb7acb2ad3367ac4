"""Batches and configurations of updates that are small and contain every case."""

import numpy as np

from impala_mi.bench.parts import random_unrolls
from impala_mi.config import Config, build
from impala_mi.learner.batching import stack
from impala_mi.types import FinalObservations, Spaces, Transitions

SPACES = Spaces((24, 28, 3), "uint8", 4, 3, instructions=True)
STEPS, WIDTH = 6, 4
TRUNCATIONS = ((2, 1), (5, 3), (5, 0))
"""Steps and columns in which episodes are truncated, the last step among them."""


def config_of(*changed: str) -> Config:
    """A configuration for `a_batch`, with overrides."""
    return build("test", {}, [
        f"learner.unroll_length={STEPS}", f"learner.batch_size={WIDTH}", f"actors.envs={WIDTH}",
        "learner.optimizer=adam", "agent.core_width=16", "agent.context_width=8", "learner.precision=float32",
        "agent.instruction_tokens=4", *changed,
    ])  # fmt: skip


def a_batch(
    config: Config, seed: int, truncations: tuple[tuple[int, int], ...] = TRUNCATIONS, spaces: Spaces = SPACES
) -> Transitions:
    """Batch with episode starts inside, instructions of several lengths and truncated episodes."""
    rng = np.random.default_rng(seed)
    data = random_unrolls(spaces, config, STEPS, WIDTH)
    data.inputs.frame[:] = rng.integers(0, 255, data.inputs.frame.shape)
    if spaces.instructions:
        data.inputs.tokens[:] = -1
        for column in range(WIDTH):
            data.inputs.tokens[:, column, : rng.integers(0, 4)] = rng.integers(0, 3)
    data.reward[:] = rng.normal(size=data.reward.shape)
    data.inputs.first[:] = False
    data.inputs.first[0, 2] = data.inputs.first[3, 3] = True
    data.terminated[2, 3] = True
    time, column = np.array(truncations, np.int64).reshape(-1, 2).T
    data.truncated[time, column], data.inputs.first[time + 1, column] = True, True
    tokens = data.inputs.tokens[time, column]
    frame = rng.integers(0, 255, (len(time), *spaces.frame_shape)).astype(np.uint8)
    return stack([data._replace(final_observations=FinalObservations(time, column, frame, tokens))])
