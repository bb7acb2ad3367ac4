"""Parts c and d: updates per second by network, precision, batch size and way of running; costs of the parts."""

import gc
import traceback
from typing import Any

import torch

from gpu_parts.part import Run
from gpu_parts.work import (
    base,
    batch_sizes,
    config_of,
    device_batch,
    make_learner,
    memory_freed,
    overrides_of,
    two_batches,
    update_seconds,
)
from impala_mi.nn.heads import HEADS

GAIN = 1.02
"""A sweep over batch sizes ends when a larger batch brings less than this factor."""


def measure(
    run: Run, table: str, batch: int, *, graphs: bool = False, compiled: bool = False, instructions: bool = True,
    finals: bool = True, more: tuple[str, ...] = (), label: dict[str, Any] | None = None, **network: str,
) -> float | None:  # fmt: skip
    """Measure one combination and add its row; returns steps per second, or None if it did not work."""
    setting = base(run) | network
    cells = {**(label or {}), **setting, "graphs": graphs, "compile": compiled, "B": batch}
    if run.left() < 2:
        run.row(table, **cells, result="not reached in time")
        return None
    speed = None
    with memory_freed(run):
        try:
            config = config_of(run, batch, [*overrides_of(**setting, graphs=graphs), *more])
            learner = make_learner(run, config, compiled, instructions)
            seconds, host = update_seconds(run, learner, device_batch(learner, finals=finals))
            speed = config.steps_per_update / seconds
            cells |= {"steps/s": speed, "ms/update": 1e3 * seconds, "host ms": 1e3 * host}
            if run.device.type == "cuda":
                cells |= {"peak GiB": torch.cuda.max_memory_allocated() / 2**30}
        except torch.OutOfMemoryError:
            cells |= {"result": "out of memory"}
        except Exception as e:
            cells |= {"result": f"{type(e).__name__}: {e}"[:200]}
            run.note(f"{cells}\n```\n{traceback.format_exc()[-2500:]}\n```")
        learner = None
        gc.collect()
    run.row(table, **cells)
    return speed


def sweep(run: Run, torso: str) -> None:
    """Batch sizes with graphs off and on, until memory or speed ends."""
    best: dict[bool, float] = dict.fromkeys([False] if run.small else [True, False], 0.0)
    for batch in batch_sizes(run):
        for graphs in list(best):
            speed = measure(run, "speed", batch, torso=torso, graphs=graphs)
            if speed is None or speed < GAIN * best[graphs]:
                del best[graphs]
            else:
                best[graphs] = speed


def learner_speed(run: Run) -> None:
    """Part c: torsos, batch sizes, graphs, heads, precisions and compilation, the most telling first."""
    run.note("T = 100, 9 actions, 30 levels, frames 72 x 96 x 3, instructions and final observations, on a GPU.")
    sweep(run, "shallow")
    sweep(run, "deep")
    graphs, other = not run.small, "bfloat16" if run.small else "float32"
    torsos = ("shallow",) if run.small else ("shallow", "deep")
    for torso in torsos:
        for batch in two_batches(run, torso):
            measure(run, "speed", batch, torso=torso, precision=other, graphs=graphs)
    for head in HEADS:
        for batch in two_batches(run, "shallow"):
            if head != base(run)["head"]:
                measure(run, "speed", batch, head=head, graphs=graphs)
    for torso in torsos:
        for batch in two_batches(run, torso):
            for recorded in dict.fromkeys((graphs, False)):
                measure(run, "speed", batch, torso=torso, compiled=True, graphs=recorded)


def costs(run: Run) -> None:
    """Part d: the same update without one of its parts."""
    graphs = not run.small
    for batch in two_batches(run, "shallow"):
        whole = measure(run, "costs", batch, label={"without": "nothing"}, graphs=graphs)
        variants = {
            "the LSTM (a feed-forward core)": {"more": ("agent.core=feedforward",)},
            "instructions": {"instructions": False},
            "final observations": {"finals": False},
        }
        for name, changed in variants.items():
            speed = measure(run, "costs", batch, label={"without": name}, graphs=graphs, **changed)
            if speed and whole:
                run.row("shares", what=name, B=batch, **{"share of an update, %": 100 * (1 - whole / speed)})
