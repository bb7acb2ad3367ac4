"""Part j: training with Ray on one GPU, and with one rank per GPU."""

import importlib.util
import traceback

import torch

from gpu_parts.part import Run
from impala_mi.host.threads import cores


def training(run: Run) -> str | None:
    """`bench train` with local and central inference, and NCCL ranks where there are two GPUs."""
    if run.small:
        run.note("There is no GPU; `impala-mi bench train` measures a CPU.")
        return "skipped"
    if importlib.util.find_spec("ray") is None:
        run.note("Ray is not installed.")
        return "skipped"
    from impala_mi.bench.end_to_end import measure_training
    from impala_mi.config import load

    gpus, actors = torch.cuda.device_count(), max(2, cores() - 2)
    base = ["env.suite=noise", "env.levels=all", f"actors.count={actors}", "actors.envs=32",
            "learner.unroll_length=100", "learner.batch_size=128"]  # fmt: skip
    central = ["actors.inference=central", f"inference.num_gpus={int(gpus > 1)}"]
    runs = {
        "one GPU, local inference": ["learner.num_gpus=1"],
        "one GPU, central inference": ["learner.num_gpus=1", *central],
    }
    if gpus > 1:
        runs["two GPUs (NCCL), local inference"] = ["learner.num_gpus=2"]
    for name, overrides in runs.items():
        if run.left() < 15:
            run.row("training", what=name, result="not reached in time")
            continue
        try:
            got = measure_training(load("bench", [*base, *overrides]), 1, warmup=3, seconds=6)
        except Exception as e:
            run.row("training", what=name, result=f"{type(e).__name__}: {e}"[:300])
            run.note(f"{name}:\n```\n{traceback.format_exc()[-2000:]}\n```")
            continue
        run.row("training", what=name, **{
            "frames/s": got.fps, "CPU us/frame": got.cpu_us, "learner busy": got.learner_busy,
            "actors busy": got.actors_busy, "lag": got.lag, "PSS MB": got.memory_mb, "start s": got.startup_s,
        })  # fmt: skip
