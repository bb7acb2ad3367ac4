"""Part f: kernels by time, gaps between them, time of the host and synchronisations."""

import time
import traceback
import warnings
from collections import defaultdict
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as profiler

from gpu_parts.machine import synchronize
from gpu_parts.part import Run
from gpu_parts.work import (
    base,
    config_of,
    device_batch,
    make_learner,
    memory_freed,
    overrides_of,
    two_batches,
    update_seconds,
)
from impala_mi.learner.update import Learner
from impala_mi.types import Transitions

UPDATES = 5
"""Updates that are profiled."""
TOP = 20
"""Kernels that are listed."""
MARK = "profiled update"
SYNCHRONISING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls of CUDA in which the host waits."""


def profile(run: Run) -> None:
    """Profile B = 32 and the best B, with graphs off and on."""
    for torso in ("shallow",) if run.small else ("shallow", "deep"):
        for batch in two_batches(run, torso):
            for graphs in (False,) if run.small else (False, True):
                label = {"torso": torso, "B": batch, "graphs": graphs}
                if run.left() < 3:
                    run.note(f"{label}: not reached in time.")
                    continue
                with memory_freed(run):
                    try:
                        _profile(run, label)
                    except Exception:
                        run.note(f"{label} failed:\n```\n{traceback.format_exc()[-2500:]}\n```")


def _profile(run: Run, label: dict[str, Any]) -> None:
    network = base(run) | {"torso": label["torso"]}
    learner = make_learner(run, config_of(run, label["B"], overrides_of(**network, graphs=label["graphs"])))
    batch = device_batch(learner)
    seconds, _ = update_seconds(run, learner, batch, 0.2)
    places = _synchronising_places(learner, batch)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if run.device.type == "cuda" else [])
    host = 0.0
    with profiler(activities=activities) as session:
        pending = []
        for _ in range(UPDATES):
            start = time.perf_counter()
            with record_function(MARK):
                pending.append(learner.begin(batch))
            host += time.perf_counter() - start
        synchronize(run.device)
    for update in pending:
        learner.finish(update)
    events = list(session.events())
    on_host = [e for e in events if e.device_type == DeviceType.CPU]
    marks = [e.time_range for e in on_host if e.name == MARK]
    waits = [
        e for e in on_host
        if e.name in SYNCHRONISING and any(m.start <= e.time_range.start <= m.end for m in marks)
    ]  # fmt: skip
    if run.device.type == "cuda":
        kernels = [e for e in events if e.device_type == DeviceType.CUDA and e.name != MARK]
        times = [(e.name, e.time_range.start, e.time_range.end) for e in kernels]
    else:
        times = [(e.name, e.time_range.start, e.time_range.start + e.self_cpu_time_total) for e in on_host]
        times = [t for t in times if t[0] != MARK]
    busy, gaps, longest = _gaps([t[1:] for t in times])
    synchronisations = max(len(waits), len(places)) if run.device.type == "cuda" else None
    run.row(
        "updates", **label, **{"ms/update": 1e3 * seconds, "host ms, profiled": 1e3 * host / UPDATES},
        **{"kernels": len(times) // UPDATES, "busy ms": busy / UPDATES / 1e3, "gaps ms": gaps / UPDATES / 1e3},
        **{"longest gap us": longest, "synchronisations": synchronisations},
    )  # fmt: skip
    for place in places:
        run.row("synchronisations", **label, where=place)
    total: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for name, start, end in times:
        total[name] += end - start
        counts[name] += 1
    everything = sum(total.values()) or 1.0
    for rank, name in enumerate(sorted(total, key=total.__getitem__, reverse=True)[:TOP], 1):
        run.row(
            f"top {TOP} by time, {label['torso']}, B = {label['B']}, graphs {'on' if label['graphs'] else 'off'}",
            rank=rank, kernel=name[:90], **{"ms per update": total[name] / UPDATES / 1e3},
            **{"share, %": 100 * total[name] / everything, "calls per update": counts[name] / UPDATES},
        )  # fmt: skip


def _synchronising_places(learner: Learner, batch: Transitions) -> list[str]:
    """Lines of Python in which `begin` makes the host wait, as PyTorch reports them."""
    if learner.device.type != "cuda":
        return []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pending = learner.begin(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.finish(pending)
    return [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message).lower()]


def _gaps(spans: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Time covered by spans, time between them, and the longest gap."""
    if not spans:
        return 0.0, 0.0, 0.0
    spans = sorted(spans)
    busy = gaps = longest = 0.0
    reached = spans[0][0]
    for start, end in spans:
        if start > reached:
            gaps, longest = gaps + start - reached, max(longest, start - reached)
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy, gaps, longest
