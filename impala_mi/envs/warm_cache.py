"""Warming of DMLab-30's level cache: compiles the maps of a run's first episodes before training."""

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from impala_mi.envs.base import Game, GameFault, Suite, game_counts
from impala_mi.envs.dmlab30 import CACHED_IN_STEPS
from impala_mi.envs.seeds import EpisodeSeeds

MAX_FAULTS = 3
"""Faults after which a level that has never started is skipped."""


@dataclass
class WarmResult:
    """Outcome of one or more episodes of a level."""

    episodes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Counts of the level cache."""
    seconds: float = 0.0
    """Time spent in resets."""
    faults: int = 0
    last_fault: str = ""

    def add(self, other: "WarmResult") -> None:
        """Add the outcome of later episodes."""
        self.episodes += other.episodes
        self.counts += other.counts
        self.seconds += other.seconds
        self.faults += other.faults
        self.last_fault = other.last_fault or self.last_fault


def warm_cache(
    suite: Suite,
    levels: Sequence[str],
    root: Sequence[int],
    episodes: int,
    processes: int,
    report: Callable[[], None],
) -> dict[str, WarmResult]:
    """Start the first `episodes` of each level, `processes` at a time; `report` is called after each.

    Levels that also compile maps in the middle of an episode are played to its end with random actions. A level is
    skipped after `MAX_FAULTS` faults if it has never started. `root` is the root of the run's `EpisodeSeeds`.
    """
    results = {level: WarmResult() for level in levels}
    work: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for level in levels:
        seeds = EpisodeSeeds(root, level)
        for _ in range(episodes):
            work.put((level, seeds.take()))
    done: queue.SimpleQueue[tuple[str, WarmResult] | Exception] = queue.SimpleQueue()
    for _ in range(min(processes, episodes * len(levels))):
        # Daemon threads: after Ctrl-C nothing waits for maps that are being compiled, and games end with this
        # process.
        threading.Thread(target=_work, args=(suite, work, done, results), daemon=True).start()
    for _ in range(episodes * len(levels)):
        answer = done.get()
        if isinstance(answer, Exception):
            raise answer
        level, result = answer
        results[level].add(result)
        report()
    return results


def _work(
    suite: Suite,
    work: "queue.SimpleQueue[tuple[str, int]]",
    done: "queue.SimpleQueue[tuple[str, WarmResult] | Exception]",
    results: dict[str, WarmResult],
) -> None:
    """Process episodes until the queue is empty; a game is reused while the level stays the same."""
    game_level, game = "", None
    try:
        while True:
            try:
                level, seed = work.get_nowait()
            except queue.Empty:
                return
            if not results[level].episodes and results[level].faults >= MAX_FAULTS:
                done.put((level, WarmResult(faults=1)))
                continue
            if game is None or level != game_level:
                if game is not None:
                    game.close()
                game_level, game = level, suite.make_game(level)
            done.put((level, _warm_episode(game, level, seed, len(suite.actions))))
    except Exception as e:  # `warm_cache` raises it again
        done.put(e)
    finally:
        if game is not None:
            game.close()


def _warm_episode(game: Game, level: str, seed: int, actions: int) -> WarmResult:
    start = time.monotonic()
    try:
        game.reset(seed)
        seconds = time.monotonic() - start
        if level.startswith(CACHED_IN_STEPS):
            rng = random.Random(seed)
            while not game.step(rng.randrange(actions)).terminated:
                pass
    except GameFault as fault:
        return WarmResult(faults=1, last_fault=str(fault), counts=Counter(game_counts(game)))
    return WarmResult(1, Counter(game_counts(game)), seconds)
