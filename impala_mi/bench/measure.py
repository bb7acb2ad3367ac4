"""CPU and wall time per frame, of this process and its descendants."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import psutil


class Cost(NamedTuple):
    """Cost of one frame."""

    cpu_us: float
    """CPU time in microseconds, including that of child processes (games)."""
    wall_us: float
    """Wall time in microseconds."""


def process_tree(pid: int) -> "list[psutil.Process]":
    """A process and its descendants; empty if it has ended."""
    import psutil

    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_seconds(processes: "list[psutil.Process]") -> "dict[psutil.Process, float]":
    """CPU time used so far by each process that still exists, in seconds."""
    import psutil

    seconds = {}
    for p in processes:
        try:
            times = p.cpu_times()
            seconds[p] = times.user + times.system
        except psutil.Error:
            pass
    return seconds


def per_frame(work: Callable[[], object], frames: int, seconds: float) -> Cost:
    """Cost of one frame of `work`, which processes `frames` frames per call; measured for some seconds."""
    for _ in range(2):
        work()
    cpu_start, start, count = sum(cpu_seconds(process_tree(os.getpid())).values()), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        count += frames
    wall = time.perf_counter() - start
    cpu = sum(cpu_seconds(process_tree(os.getpid())).values()) - cpu_start
    return Cost(1e6 * cpu / count, 1e6 * wall / count)
