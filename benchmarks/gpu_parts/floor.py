"""Part e: the least time that an update can take on this device, and the distance from it."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gpu_parts.machine import copy_rate, matrix_rate
from gpu_parts.part import Run
from gpu_parts.work import base, config_of, device_batch, make_learner, overrides_of, two_batches

COUNTED_STEPS, COUNTED_WIDTH = 8, 16
"""T and B of the update whose work is counted; work per step barely depends on them."""


class _Traffic(TorchDispatchMode):
    """Counts the bytes of the inputs and outputs of all operators that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return result


def work_per_step(run: Run, torso: str, head: str) -> tuple[float, float, float]:
    """FLOPs, bytes of the operators and bytes that are unavoidable, per agent step.

    They are counted in an update on the CPU in float32. Convolutional torsos move half of the bytes in bfloat16.
    Unavoidable are the frames, read once, and weights and optimiser state, read and written once per update of the
    paper's size (T = 100, B = 32).
    """
    overrides = [
        *overrides_of(torso, head, "float32"),
        f"learner.unroll_length={COUNTED_STEPS}",
        "learner.num_gpus=0",
    ]
    config = config_of(run, COUNTED_WIDTH, overrides)
    device, run.device = run.device, torch.device("cpu")
    try:
        learner = make_learner(run, config)
    finally:
        run.device = device
    if hasattr(learner.agent.core, "fixed_work"):
        learner.agent.core.fixed_work = True  # PyTorch's LSTM is one operator whose FLOPs are not counted
    batch = device_batch(learner)
    learner.update(batch)
    steps = config.steps_per_update
    with FlopCounterMode(display=False) as flops:
        learner.update(batch)
    with _Traffic() as traffic:
        learner.update(batch)
    frame = math.prod(learner.agent.spaces.frame_shape)
    # Weights, optimiser state and gradients in float32: read and written.
    state = 2 * 4 * 3 * learner.agent.num_parameters / (100 * 32)
    return flops.get_total_flops() / steps, traffic.bytes / steps, frame + state


def floor(run: Run) -> None:
    """Floors from FLOPs and from bytes, and measured time over them."""
    rates = [row["TFLOP/s"] * 1e12 for row in run.report.rows("a", "matrices")]
    copies = [row["GB/s"] * 1e9 for row in run.report.rows("a", "copy")]
    rate = rates[0] if rates else matrix_rate(run.device, torch.bfloat16)
    bandwidth = copies[0] if copies else copy_rate(run.device)
    run.note(
        f"Rates: {rate / 1e12:.3g} TFLOP/s (bfloat16 product), {bandwidth / 1e9:.4g} GB/s (copy). *arithmetic*: "
        "FLOPs over the rate. *data*: frames and weights moved once. *operators*: what the operators of an eager "
        "update read and write, at two bytes a number. The last column is the measured time over the larger of the "
        "first two."
    )
    for torso in ("shallow", "deep"):
        flops, traffic, unavoidable = work_per_step(run, torso, base(run)["head"])
        floors = {"arithmetic": flops / rate, "data": unavoidable / bandwidth, "operators": traffic / 2 / bandwidth}
        run.row(
            "work per step", torso=torso, MFLOP=flops / 1e6, **{"operators KB (float32)": traffic / 1e3},
            **{"unavoidable KB": unavoidable / 1e3},
            **{f"floor {name}, M steps/s": 1e-6 / seconds for name, seconds in floors.items()},
        )  # fmt: skip
        bests = {b: _best_speed(run, torso, b) for b in two_batches(run, torso)}
        for batch, speed in bests.items():
            if speed is not None:
                seconds = 1 / speed
                run.row(
                    "distance", torso=torso, B=batch, **{"steps/s": speed},
                    **{f"time / {name}": seconds / bound for name, bound in floors.items()},
                    **{"time / floor": seconds / max(floors["arithmetic"], floors["data"])},
                )  # fmt: skip


def _best_speed(run: Run, torso: str, batch: int) -> float | None:
    rows = [r for r in run.report.rows("c", "speed") if r["torso"] == torso and r["B"] == batch]
    return max((r["steps/s"] for r in rows if r.get("steps/s")), default=None)
