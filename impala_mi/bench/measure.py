"""CPU seconds of this process and all below it, per frame of some work."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil


class Cost(NamedTuple):
    """Of one frame."""

    cpu_us: float
    """Microseconds of CPU, of games in processes of their own as well."""
    wall_us: float
    """Microseconds."""


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_seconds(processes: list[psutil.Process]) -> dict[psutil.Process, float]:
    """Used so far by each that is still there."""
    out = {}
    for p in processes:
        try:
            times = p.cpu_times()
            out[p] = times.user + times.system
        except psutil.Error:
            pass
    return out


def per_frame(work: Callable[[], object], frames: int, seconds: float) -> Cost:
    """The cost of a frame of `work`, which does so many at a call; it is called for some seconds."""
    for _ in range(2):
        work()
    before, began, count = sum(cpu_seconds(tree(os.getpid())).values()), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        count += frames
    wall = time.perf_counter() - began
    used = sum(cpu_seconds(tree(os.getpid())).values()) - before
    return Cost(1e6 * used / count, 1e6 * wall / count)
