"""Learners and batches that the parts measure."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from gpu_parts.machine import synchronize
from gpu_parts.part import Run
from impala_mi.bench.parts import random_unrolls
from impala_mi.config import Config, build
from impala_mi.learner.batching import stack, to_device
from impala_mi.learner.cuda_graphs import WARM_UP
from impala_mi.learner.update import Learner
from impala_mi.types import FinalObservations, Spaces, Transitions

ACTIONS, LEVELS = 9, 30
ACTION_REPEAT = 4


def spaces_of(run: Run, instructions: bool = True) -> Spaces:
    """Spaces of DMLab-30, with small frames if there is no GPU."""
    return Spaces((24, 28, 3) if run.small else (72, 96, 3), "uint8", ACTIONS, LEVELS, instructions)


def base(run: Run) -> dict[str, str]:
    """Network and precision of a row unless it says otherwise."""
    return {"torso": "shallow", "head": "mi_context", "precision": "float32" if run.small else "bfloat16"}


def batch_sizes(run: Run) -> tuple[int, ...]:
    """Batch sizes B of a sweep."""
    return (4, 8) if run.small else (32, 128, 512, 1024, 2048, 4096, 8192, 16384)


def config_of(run: Run, batch: int, overrides: Sequence[str] = ()) -> Config:
    """IMPALA's configuration for DMLab-30, T = 100, with batches of `batch` unrolls."""
    shapes = {"unroll_length": 6 if run.small else 100, "batch_size": batch, "num_gpus": 0 if run.small else 1}
    small = {"core_width": 16, "context_width": 8} if run.small else {}
    values = {"learner": shapes | {"learning_rate": 1e-5}, "actors": {"envs": min(batch, 32)}, "agent": small}
    return build("gpu", values, overrides)


def overrides_of(torso: str, head: str, precision: str, graphs: bool = False) -> list[str]:
    """Overrides of one combination."""
    return [
        f"agent.torso={torso}", f"agent.head={head}", f"learner.precision={precision}",
        f"learner.cuda_graphs={str(graphs).lower()}",
    ]  # fmt: skip


def unrolls(spaces: Spaces, config: Config, width: int, seed: int = 0, finals: bool = True) -> Transitions:
    """Unrolls of noise as NumPy arrays, in which every other episode's end is a truncation.

    Args:
        spaces: spaces of the suite.
        config: configuration, for T.
        width: number of unrolls.
        seed: seed of the rewards.
        finals: whether truncated episodes have final observations; without them all ends are terminations.
    """
    data = random_unrolls(spaces, config, config.learner.unroll_length, width)
    data.reward[:] = np.random.default_rng(seed).random(data.reward.shape)
    data.inputs.first[0, :: max(1, width // 2)] = True
    data.inputs.first[-1, -1] = True
    time_, column = np.nonzero(data.inputs.first[1:])
    data.terminated[time_, column] = True
    if not finals:
        return data
    time_, column = time_[::2].copy(), column[::2].copy()
    data.terminated[time_, column], data.truncated[time_, column] = False, True
    frame, tokens = (array[time_ + 1, column].copy() for array in (data.inputs.frame, data.inputs.tokens))
    return data._replace(final_observations=FinalObservations(time_, column, frame, tokens))


def device_batch(learner: Learner, seed: int = 0, finals: bool = True) -> Transitions:
    """Batch of noise on the learner's device; the frames are made there."""
    spaces, config, device = learner.agent.spaces, learner.config, learner.device
    without_frames, mlp = replace(spaces, frame_shape=(1,)), config.agent.model_copy(update={"torso": "mlp"})
    shapes = config.model_copy(update={"agent": mlp})
    host = stack([unrolls(without_frames, shapes, config.learner.batch_size, seed, finals)])
    batch = to_device(host, device, learner.pad_to_buckets)
    generator = torch.Generator(device).manual_seed(seed)

    def frames(leading: torch.Size) -> torch.Tensor:
        shape = (*leading, *spaces.frame_shape)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)

    last = batch.final_observations
    return batch._replace(
        inputs=batch.inputs._replace(frame=frames(batch.inputs.frame.shape[:-1])),
        final_observations=last._replace(frame=frames(last.frame.shape[:-1])),
    )


def make_learner(run: Run, config: Config, compiled: bool = False, instructions: bool = True) -> Learner:
    """Learner on the part's device; `compiled` wraps torso and head with torch.compile."""
    learner = Learner(config, spaces_of(run, instructions), ACTION_REPEAT, run.device)
    if compiled:
        backend = "aot_eager" if run.small else "inductor"
        for module in (learner.agent.torso, learner.agent.head):
            module.compile(backend=backend)
    return learner


def update_seconds(run: Run, learner: Learner, batch: Transitions, at_least_s: float = 0.4) -> tuple[float, float]:
    """Seconds of an update in a pipeline of two, and seconds that `begin` keeps the host."""
    for _ in range(2 if run.small else WARM_UP + 3):
        learner.update(batch)
    synchronize(run.device)
    start, updates, host = time.perf_counter(), 1, 0.0
    pending = learner.begin(batch)
    while updates < (3 if run.small else 6) or (not run.small and time.perf_counter() - start < at_least_s):
        before = time.perf_counter()
        following = learner.begin(batch)
        host += time.perf_counter() - before
        learner.finish(pending)
        pending = following
        updates += 1
    learner.finish(pending)
    synchronize(run.device)
    return (time.perf_counter() - start) / updates, host / (updates - 1)


@contextlib.contextmanager
def memory_freed(run: Run) -> Iterator[None]:
    """Forget the device's cached memory afterwards."""
    try:
        yield
    finally:
        if run.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def best_batch(run: Run, torso: str) -> int:
    """B with the most steps per second in part c, or a guess if part c has not measured it."""
    rows = [r for r in run.report.rows("c", "speed") if r["torso"] == torso and r.get("steps/s")]
    if rows:
        return max(rows, key=lambda row: row["steps/s"])["B"]
    return batch_sizes(run)[0] if run.small else {"shallow": 1024, "deep": 128}[torso]


def two_batches(run: Run, torso: str) -> tuple[int, ...]:
    """The smallest B and the best; only the smallest if there is no GPU."""
    sizes = (batch_sizes(run)[0], best_batch(run, torso))
    return sizes[:1] if run.small else tuple(dict.fromkeys(sizes))
