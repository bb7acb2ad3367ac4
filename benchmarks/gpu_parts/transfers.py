"""Part h: copies to the device, alone and beside work, and the staging of rollouts as they arrive."""

import time

import torch

from gpu_parts.machine import seconds_of, synchronize
from gpu_parts.part import Run
from gpu_parts.work import (
    base,
    batch_sizes,
    config_of,
    make_learner,
    memory_freed,
    overrides_of,
    spaces_of,
    unrolls,
)
from impala_mi.host.threads import default_threads
from impala_mi.learner.transfer import Stager


def transfers(run: Run) -> None:
    """Pageable, page-locked and overlapped copies, and staging from NumPy unrolls."""
    _copies(run)
    for batch in batch_sizes(run)[:2]:
        with memory_freed(run):
            _staging(run, batch)


def _copies(run: Run) -> None:
    on_gpu = run.device.type == "cuda"
    size = 2**29 if on_gpu else 2**22
    target = torch.empty(size, dtype=torch.uint8, device=run.device)
    for name, pinned in {"pageable": False, "page-locked": True}.items():
        if pinned and not on_gpu:
            continue
        source = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        seconds = seconds_of(lambda source=source: target.copy_(source, non_blocking=True), run.device)
        run.row("copies to the device", memory=name, beside="nothing", **{"GB/s": size / seconds / 1e9})
        if pinned:
            back = seconds_of(lambda source=source: source.copy_(target, non_blocking=True), run.device)
            run.row(
                "copies to the device", memory="page-locked, back", beside="nothing", **{"GB/s": size / back / 1e9}
            )
    if on_gpu:
        _overlap(run, source, target)


def _overlap(run: Run, source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy on a stream of its own while matrices are multiplied."""
    matrix, stream = torch.randn(8192, 8192, device=run.device, dtype=torch.bfloat16), torch.cuda.Stream()
    copy = seconds_of(lambda: target.copy_(source, non_blocking=True), run.device)
    product = seconds_of(lambda: matrix @ matrix, run.device)
    products = max(1, round(copy / product))

    def both() -> None:
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        for _ in range(products):
            matrix @ matrix
        torch.cuda.current_stream().wait_stream(stream)
        stream.wait_stream(torch.cuda.current_stream())

    together = seconds_of(both, run.device)
    apart, shorter = copy + products * product, min(copy, products * product)
    cells = {"GB/s": source.numel() / together / 1e9, "hidden, %": 100 * (apart - together) / shorter}
    run.row("copies to the device", memory="page-locked", beside="matrix products", **cells)


def _staging(run: Run, batch: int) -> None:
    """Steps per second of staging alone, of updates alone and of both in a pipeline."""
    config = config_of(run, batch, overrides_of(**base(run), graphs=not run.small))
    learner, envs = make_learner(run, config), config.actors.envs
    rollouts = [unrolls(spaces_of(run), config, envs, seed) for seed in range(config.rollouts_per_batch)]
    stager = Stager(run.device, default_threads(), learner.pad_to_buckets)
    steps, size = config.steps_per_update, sum(r.inputs.frame.nbytes for r in rollouts)
    least = 3 if run.small else 10

    def rate(count: int, start: float) -> float:
        synchronize(run.device)
        return count * steps / (time.perf_counter() - start)

    staged = [stager.stage(rollouts).take() for _ in range(3)][-1]
    for _ in range(least):
        learner.update(staged)
    synchronize(run.device)
    start = time.perf_counter()
    for _ in range(least):
        staged = stager.stage(rollouts).take()
    alone = rate(least, start)
    start, pending = time.perf_counter(), learner.begin(staged)
    for _ in range(least):
        following = learner.begin(staged)
        learner.finish(pending)
        pending = following
    learner.finish(pending)
    updating = rate(least + 1, start)
    start, pending = time.perf_counter(), learner.begin(stager.stage(rollouts).take())
    for _ in range(least):
        following = learner.begin(stager.stage(rollouts).take())
        learner.finish(pending)
        pending = following
    learner.finish(pending)
    both = rate(least + 1, start)
    for name, value in {"staging alone": alone, "updates alone": updating, "both in a pipeline": both}.items():
        row = {"steps/s": value} | ({} if name == "updates alone" else {"GB/s": value / steps * size / 1e9})
        run.row("staging of NumPy unrolls", what=name, B=batch, **row)
