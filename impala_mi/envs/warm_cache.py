"""Fill DMLab-30's level cache before training, with the maps of the episodes that a run plays first."""

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from impala_mi.envs.base import Game, GameFault, Suite, game_counts
from impala_mi.envs.dmlab30 import CACHED, CACHED_IN_STEPS
from impala_mi.envs.seeds import EpisodeSeeds

GIVEN_UP_AFTER = 3


@dataclass
class Filled:
    """What became of a level's episodes."""

    episodes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Of the level cache."""
    seconds: float = 0.0
    faults: int = 0
    fault: str = ""
    """The last."""


def asks_for_maps(level: str) -> bool:
    """Whether a level builds maps at all."""
    return level.startswith(CACHED)


def fill(
    suite: Suite,
    levels: Sequence[str],
    root: Sequence[int],
    episodes: int,
    processes: int,
    report: Callable[[], None],
) -> dict[str, Filled]:
    """Start the first `episodes` of each level in `processes` processes at a time; `report` is called after each.

    A level that fails `GIVEN_UP_AFTER` times without ever starting is left alone. Levels that also build maps in
    the middle of an episode are played to its end, at random. `root` is that of the run's seeds, see
    `EpisodeSeeds`.
    """
    filled = {level: Filled() for level in levels}
    work: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for level in levels:
        seeds = EpisodeSeeds(root, level)
        for _ in range(episodes):
            work.put((level, seeds.take()))
    done: queue.SimpleQueue[tuple[str, Filled] | Exception] = queue.SimpleQueue()
    for _ in range(min(processes, episodes * len(levels))):
        # Daemons: after Ctrl-C nobody waits for maps that are being compiled, and the games go with this process.
        threading.Thread(target=_work, args=(suite, work, done, filled), daemon=True).start()
    for _ in range(episodes * len(levels)):
        answer = done.get()
        if isinstance(answer, Exception):
            raise answer
        level, one = answer
        filled[level].episodes += one.episodes
        filled[level].counts += one.counts
        filled[level].seconds += one.seconds
        filled[level].faults += one.faults
        filled[level].fault = one.fault or filled[level].fault
        report()
    return filled


def _work(
    suite: Suite,
    work: "queue.SimpleQueue[tuple[str, int]]",
    done: "queue.SimpleQueue[tuple[str, Filled] | Exception]",
    filled: dict[str, Filled],
) -> None:
    """Take episodes until there are none; a game is kept as long as the level stays the same."""
    playing, game = "", None
    try:
        while True:
            try:
                level, seed = work.get_nowait()
            except queue.Empty:
                return
            if not filled[level].episodes and filled[level].faults >= GIVEN_UP_AFTER:
                done.put((level, Filled(faults=1)))
                continue
            if game is None or level != playing:
                if game is not None:
                    game.close()
                playing, game = level, suite.make_game(level)
            done.put((level, _one(game, level, seed, len(suite.actions))))
    except Exception as e:  # raised again where `fill` waits
        done.put(e)
    finally:
        if game is not None:
            game.close()


def _one(game: Game, level: str, seed: int, actions: int) -> Filled:
    began = time.monotonic()
    try:
        game.reset(seed)
        seconds = time.monotonic() - began
        if level.startswith(CACHED_IN_STEPS):
            rng = random.Random(seed)
            while not game.step(rng.randrange(actions)).terminated:
                pass
    except GameFault as fault:
        return Filled(faults=1, fault=str(fault), counts=Counter(game_counts(game)))
    return Filled(1, Counter(game_counts(game)), seconds)
