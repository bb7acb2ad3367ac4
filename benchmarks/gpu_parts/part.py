"""Parts of the benchmark: names, shares of the time, and what a running part is given."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu_parts.report import Report


@dataclass(frozen=True)
class Part:
    """One part of the benchmark."""

    title: str
    share: float
    """Seconds of the default budget of 480 s."""
    target: str
    """Function, as module:name. It returns its status, or None for `done`."""


PARTS = {
    "a": Part("The machine", 15, "gpu_parts.machine:machine"),
    "b": Part("GPU tests of the suite", 75, "gpu_parts.suite:gpu_tests"),
    "c": Part("Learner steps per second", 150, "gpu_parts.learning:learner_speed"),
    "d": Part("Cost of the LSTM, of instructions and of final observations", 30, "gpu_parts.learning:costs"),
    "e": Part("Distance from the floor", 15, "gpu_parts.floor:floor"),
    "f": Part("Kernels, gaps, host time and synchronisations", 40, "gpu_parts.profiling:profile"),
    "g": Part("Agreement with float32 eager updates", 50, "gpu_parts.accuracy:agreement"),
    "h": Part("Transfers and staging", 25, "gpu_parts.transfers:transfers"),
    "i": Part("Batched acting, and a whole run without Ray", 45, "gpu_parts.acting:acting"),
    "j": Part("Training with Ray, NCCL", 35, "gpu_parts.training:training"),
}
"""Parts in the order in which they run."""


def part_function(target: str) -> Callable[["Run"], str | None]:
    """Import the function of a part."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)


class Run:
    """A part that is running: where its rows go and how long it may take."""

    def __init__(self, report: Report, name: str, end: float) -> None:
        import torch

        from impala_mi.nn.precision import compute_with

        self.report, self.name = report, name
        self._end = end
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            compute_with(1)
        self.report.set_gpu(torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None)

    @property
    def small(self) -> bool:
        """Whether sizes are tiny, because there is no GPU."""
        return self.device.type == "cpu"

    def left(self) -> float:
        """Seconds that remain."""
        return self._end - time.monotonic()

    def row(self, table: str, /, **cells: Any) -> None:
        """Add a row to a table of this part and write it to disk."""
        self.report.add_row(self.name, table, cells)

    def note(self, text: str) -> None:
        """Add a line of text to this part."""
        self.report.add_note(self.name, text)
