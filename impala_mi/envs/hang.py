"""Whether a game that does not answer hangs: one that computes, or waits for its turn to compile, does not."""

import os
import time
from contextlib import suppress
from pathlib import Path

MIN_CORE_SHARE = 0.01
"""Share of a core that a game must use to count as computing; a busy machine leaves a compiler little more."""
MAX_CPU_TIMEOUTS = 5.0
"""CPU time of one call above which a game hangs although it computes, as a multiple of its timeout."""
_SAMPLES = 4
"""Looks at the game within one timeout."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds of the unit in which the kernel counts CPU time."""
_BEAT = "waits"
"""Name of the file by which a game says that it waits."""


def beat(folder: Path) -> None:
    """Tell the parent of a game, by a file in the game's folder, that the game waits and will go on by itself."""
    with suppress(OSError):
        (folder / _BEAT).write_text(str(time.monotonic()))


class HangWatch:
    """Watch over one call of a game, which runs in a group of processes.

    Args:
        group: id of the group.
        folder: folder of the game, with the file of `beat`.
        timeout_s: seconds without an answer, CPU time or beat after which the game hangs.
        computing_counts: whether CPU time of the group extends the timeout.
    """

    def __init__(self, group: int, folder: Path, timeout_s: float, computing_counts: bool) -> None:
        self.every_s = timeout_s / _SAMPLES if computing_counts else timeout_s
        """Seconds to wait for the answer between two calls of `problem`."""
        self._group, self._folder, self._timeout_s = group, folder, timeout_s
        self._computing_counts = computing_counts
        self._alive_at = self._sampled_at = time.monotonic()
        self._cpu_s: float | None = None  # not known before the first sample, which costs more than most calls
        self._used_s = 0.0
        self._beat = ""

    def problem(self) -> str | None:
        """Why the call counts as hung, to follow "no answer", or None if it is to be waited for."""
        if not self._computing_counts:
            return f"in {self._timeout_s:g} s"
        now, cpu_s, heard = time.monotonic(), group_cpu_s(self._group), ""
        if self._cpu_s is not None:
            used_s = abs(cpu_s - self._cpu_s)  # the time of a process whose parent did not wait for it is lost
            self._used_s += used_s
            if used_s >= MIN_CORE_SHARE * (now - self._sampled_at):
                self._alive_at = now
        with suppress(OSError):
            heard = (self._folder / _BEAT).read_text()
        if heard != self._beat and self._cpu_s is not None:
            self._alive_at = now
        self._cpu_s, self._sampled_at, self._beat = cpu_s, now, heard
        if self._used_s >= MAX_CPU_TIMEOUTS * self._timeout_s:
            return f"after {self._used_s:.0f} s of CPU time"
        if now - self._alive_at >= 0.99 * self._timeout_s:
            return f"in {self._timeout_s:g} s without CPU time"
        return None


def group_cpu_s(group: int) -> float:
    """CPU seconds of the processes of a group, with those of their children that have ended."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                fields = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[2]) == group:
                    total += sum(map(int, fields[11:15]))  # user and system time, own and of children
    return total * _TICK_S
