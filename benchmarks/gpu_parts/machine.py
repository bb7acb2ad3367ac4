"""Part a: the machine, its copy bandwidth and its rate of matrix products."""

import platform
import subprocess
import time
from collections.abc import Callable

import numpy as np
import torch

from gpu_parts.part import Run


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, at_least_s: float = 0.3) -> float:
    """Seconds of one call of `work`, which is repeated without waiting in between."""
    for _ in range(3):
        work()
    synchronize(device)
    start, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - start < at_least_s:
        work()
        calls += 1
        if calls % 8 == 0:
            synchronize(device)
    synchronize(device)
    return (time.perf_counter() - start) / calls


def copy_rate(device: torch.device) -> float:
    """Measured bytes per second of a copy on the device, read and written bytes counted."""
    source = torch.empty(2**32 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: target.copy_(source), device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measured FLOP per second of a product of two square matrices of random numbers."""
    side = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, device)


def machine(run: Run) -> None:
    """Name, driver, memory and measured rates."""
    facts = {
        "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "CPU threads": torch.get_num_threads(), "device": "none: sizes are tiny",
    }  # fmt: skip
    if run.device.type == "cuda":
        properties = torch.cuda.get_device_properties(run.device)
        facts |= {
            "device": properties.name, "GPUs": torch.cuda.device_count(), "driver": _driver(),
            "CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version(),
            "memory GiB": properties.total_memory / 2**30, "multiprocessors": properties.multi_processor_count,
            "compute capability": f"{properties.major}.{properties.minor}",
        }  # fmt: skip
    for name, value in facts.items():
        run.row("machine", name=name, value=str(round(value, 1) if isinstance(value, float) else value))
    run.row("copy", what="copy on the device, bytes read and written", **{"GB/s": copy_rate(run.device) / 1e9})
    for dtype in (torch.bfloat16, torch.float32):
        rate = matrix_rate(run.device, dtype)
        run.row("matrices", what=f"product, {str(dtype).removeprefix('torch.')}", **{"TFLOP/s": rate / 1e12})


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"
