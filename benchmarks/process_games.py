"""Benchmark run by hand: what a step costs because its game runs in a process of its own.

python benchmarks/process_games.py [SECONDS] [GAMES ...]     by default 1 s per measurement; 1, 8 and 30 games

A look-alike burns the CPU time of a real step of DeepMind Lab, goes through more memory than a core caches, and
shows a frame of 96x72. In turns it is played alone in this process, and through `VectorEnv` with a child process
per game.

Printed are CPU microseconds per step: of the game alone, of this process and its children, the difference, the
part of it in this process, and the ratio. The last column is the ratio of steps per second, of all games to the
game alone. Each number is the best of the rounds, because other programs only ever add to it.
"""

import functools
import sys
import time
from collections.abc import Callable

import numpy as np
import psutil

from impala_mi.envs.base import Level, Observation, Outcome, Suite
from impala_mi.envs.process import ProcessGame
from impala_mi.envs.vector import VectorEnv
from impala_mi.types import AgentInput, Spaces, transitions_buffer

STEP_S = 2e-3
"""CPU seconds of a step: those of the fastest levels (rooms_watermaze)."""
MEMORY_BYTES = 2**23
"""Memory that steps go through: more than a core's own cache has, as a renderer does."""
SHAPE = (72, 96, 3)
ROUNDS = 5


class LookAlike:
    """Game that burns CPU time and returns a fresh frame, with an instruction that does not change."""

    def __init__(self) -> None:
        self._memory = np.zeros(MEMORY_BYTES, np.uint8)
        self._place, self._count = 0, 0

    def reset(self, seed: int) -> Observation:
        """Start an episode."""
        return self._observe()

    def step(self, action: int) -> Outcome:
        """Burn `STEP_S` seconds of CPU time."""
        end = time.thread_time() + STEP_S
        while time.thread_time() < end:
            self._place = (self._place + 2**15) % MEMORY_BYTES
            self._memory[self._place : self._place + 2**15] += 1
        return Outcome(self._observe(), 0.5)

    def close(self) -> None:
        """Free nothing."""

    def _observe(self) -> Observation:
        self._count += 1
        return Observation(np.full(SHAPE, self._count % 256, np.uint8), "pick the blue object")


def make(folder: str) -> LookAlike:
    """Make the game in its child process."""
    return LookAlike()


def make_suite() -> Suite:
    """Suite of the look-alike, with the threads that DMLab has."""
    return Suite(
        name="look-alike",
        levels=(Level("look_alike"),),
        spaces=Spaces(SHAPE, "uint8", num_actions=9, num_levels=1, instructions=True),
        actions=tuple("abcdefghi"),
        make_game=lambda level: ProcessGame(functools.partial(make), level, timeout_s=60),
        step_threads=256,
    )


def cpu_time(pid: int) -> float:
    """CPU seconds of a process, by its own clock, which counts nanoseconds (psutil's counts hundredths)."""
    return time.clock_gettime((~pid << 3) | 2)


def measure(step: Callable[[], object], steps: int, pids: list[int], seconds: float) -> tuple[float, float]:
    """CPU and wall microseconds per step of `step`, which does `steps` steps."""
    cpu, start, count = sum(map(cpu_time, pids)), time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count == 0:
        step()
        count += steps
    return 1e6 * (sum(map(cpu_time, pids)) - cpu) / count, 1e6 * (time.perf_counter() - start) / count


def compare(games: int, seconds: float) -> None:
    """Print a row: the game alone and `games` games of one actor."""
    suite, me = make_suite(), psutil.Process()
    alone, actions = LookAlike(), np.zeros(games, np.int64)
    before = set(me.children())
    vector = VectorEnv(suite, [0] * games, suite.assign_seeds([1], [0] * games), 16)
    out = AgentInput(*(a[0] for a in transitions_buffer(suite.spaces, 1, games, 16).inputs))
    try:
        vector.reset(out)
        children = [p.pid for p in set(me.children()) - before]
        assert len(children) == games
        bare, played = [], []
        for _ in range(ROUNDS):
            bare.append(measure(lambda: alone.step(0), 1, [me.pid], seconds / 2))
            played.append(measure(lambda: vector.step(actions, out), games, [me.pid, *children], seconds))
        own = min(measure(lambda: vector.step(actions, out), games, [me.pid], seconds)[0] for _ in range(2))
    finally:
        vector.close()
    (bare_cpu, bare_wall), (cpu, wall) = (tuple(map(min, zip(*m, strict=True))) for m in (bare, played))
    print(f"{games:>5} {bare_cpu:>12.0f} {cpu:>12.0f} {cpu - bare_cpu:>10.0f} {own:>10.0f} "
          f"{cpu / bare_cpu:>8.3f} {bare_wall / wall:>10.2f}", flush=True)  # fmt: skip


def main(seconds: float, counts: list[int]) -> None:
    """Print the table."""
    print("games   CPU us bare    processes      added of actor's    ratio    speed")
    for games in counts:
        compare(games, seconds)


if __name__ == "__main__":
    import process_games  # the children look the game up by the name of this module

    arguments = [float(a) for a in sys.argv[1:]]
    process_games.main(arguments[0] if arguments else 1.0, [int(a) for a in arguments[1:]] or [1, 8, 30])
