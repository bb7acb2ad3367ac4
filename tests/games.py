"""Games whose observations identify every step, and games that fail on demand."""

import functools
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from impala_mi.config import EnvConfig
from impala_mi.config_suites import InterferenceConfig
from impala_mi.envs.base import BatchOutcome, Game, GameBatch, Level, Observation, Outcome, Suite
from impala_mi.envs.batch import BatchedGame
from impala_mi.envs.choose import choose_levels
from impala_mi.envs.interference import interference
from impala_mi.envs.process import ProcessGame
from impala_mi.envs.tiny import tiny
from impala_mi.errors import TrainingError
from impala_mi.types import Spaces

LENGTHS = {"terminates": 3, "truncates": 4, "no_final": 5, "long": 10_000}


class CountingGame(Game):
    """The frame is (seed, time, 1 at the end); the reward is the action plus 10 times the time."""

    log: list[tuple] = []  # noqa: RUF012  resets and steps of all games

    def __init__(self, level: str) -> None:
        self.level, self.closed = level, False

    def reset(self, seed: int) -> Observation:
        assert not self.closed
        self.seed, self.time = seed % 10_000_000, 0
        self.log.append(("reset", self.level, self.seed))
        return self._observe(0)

    def step(self, action: int) -> Outcome:
        assert not self.closed
        self.time += 1
        self.log.append(("step", self.level, self.seed, self.time, action))
        reward = action + 10.0 * self.time
        if self.time < LENGTHS[self.level]:
            return Outcome(self._observe(0), reward)
        if self.level == "terminates":
            return Outcome(self._observe(1), reward, terminated=True)
        return Outcome(None if self.level == "no_final" else self._observe(1), reward, truncated=True)

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    def _observe(self, end: int) -> Observation:
        return Observation(np.array([self.seed, self.time, end], np.float32), f"word{self.time}")


def counting(config: EnvConfig) -> Suite:
    levels = choose_levels("counting", [Level(name, 0.0, 100.0) for name in LENGTHS], config.levels)
    return Suite("counting", levels, Spaces((3,), "float32", 3, len(levels), True), ("a", "b", "c"), CountingGame)


class CountingBatch(GameBatch):
    """`CountingGame`s that work in a thread, overwrite the arrays of their last result and tolerate no misuse."""

    def __init__(self, level: str, size: int) -> None:
        self.games = [CountingGame(level) for _ in range(size)]
        self.seeds: list[int | None] = [None] * size
        self.ended = np.zeros(size, bool)
        self.arrays = BatchOutcome(
            np.zeros((size, 3), np.float32), np.zeros(size, np.float32), np.zeros(size, bool), np.zeros(size, bool)
        )
        self.pool, self.work = ThreadPoolExecutor(1), None

    def begin_reset(self, games: np.ndarray, seeds: Sequence[int] | None) -> None:
        assert seeds is not None or self.ended[games].all()
        self._begin(games, [None] * len(games) if seeds is None else seeds, self._reset)

    def begin_step(self, games: np.ndarray, actions: Sequence[int]) -> None:
        assert not self.ended[games].any()
        self._begin(games, actions, self._step)

    def finish(self) -> BatchOutcome:
        assert self.work is not None
        work, self.work = self.work, None
        return work.result(timeout=10)

    def close(self) -> None:
        self.pool.shutdown()
        for game in self.games:
            game.close()

    def _begin(self, games: np.ndarray, arguments: Sequence, call: Callable) -> None:
        assert self.work is None, "finish was not called"
        assert len(games) == len(set(games.tolist())) == len(arguments) > 0
        for array in self.arrays[:4]:
            array.fill(99)  # what was returned before is gone
        self.work = self.pool.submit(self._run, games.tolist(), list(arguments), call)

    def _run(self, games: list[int], arguments: list, call: Callable) -> BatchOutcome:
        words = [
            call(row, game, argument) for row, (game, argument) in enumerate(zip(games, arguments, strict=True))
        ]
        return BatchOutcome(*(array[: len(games)] for array in self.arrays[:4]), words)

    def _reset(self, row: int, i: int, seed: int | None) -> str:
        previous = self.seeds[i]
        assert seed is not None or previous is not None
        self.seeds[i] = (previous * 7 + 1) % 2**31 if seed is None else seed
        self.ended[i] = False
        observation = self.games[i].reset(self.seeds[i])
        self.arrays.frame[row] = observation.frame
        return observation.instruction

    def _step(self, row: int, i: int, action: int) -> str:
        observation, reward, terminated, truncated = self.games[i].step(action)
        if observation is None:
            word = f"word{self.games[i].time - 1}"
            observation, terminated, truncated = Observation(np.zeros(3, np.float32), word), True, False
        self.ended[i] = terminated or truncated
        self.arrays.frame[row], self.arrays.reward[row] = observation.frame, reward
        self.arrays.terminated[row], self.arrays.truncated[row] = terminated, truncated
        return observation.instruction


def counting_batches(config: EnvConfig) -> Suite:
    """The suite `counting`, whose games come in batches."""
    game = functools.partial(BatchedGame, CountingBatch)
    return replace(counting(config), name="counting_batches", make_game=game, make_batch=CountingBatch)


class FaultyGame(CountingGame):
    """Fails as its level is named, after 50 steps; `hopeless` fails in reset."""

    def reset(self, seed: int) -> Observation:
        if self.level == "hopeless":
            raise TrainingError("a level did not start 10 times: hopeless")
        return super().reset(seed)

    def step(self, action: int) -> Outcome:
        outcome = super().step(action)
        if self.time == 50:
            if self.level == "raises":
                raise RuntimeError("the level broke")
            if self.level == "killed" and not os.path.exists(os.environ["FAULT_ONCE"]):
                open(os.environ["FAULT_ONCE"], "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.level == "hangs" and not os.path.exists(os.environ["FAULT_ONCE"]):
                open(os.environ["FAULT_ONCE"], "w").close()
                time.sleep(3600)
            if self.level == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.level == "nan":
                return outcome._replace(reward=float("nan"))
            if self.level == "slow":
                time.sleep(0.5)
        return outcome


LENGTHS |= dict.fromkeys(("raises", "killed", "hangs", "poison", "nan", "slow", "hopeless"), 60)


def faulty(config: EnvConfig) -> Suite:
    suite = counting(config)
    return Suite("faulty", suite.levels, suite.spaces, suite.actions, FaultyGame)


def breaks(config: EnvConfig) -> Suite:
    raise RuntimeError("as it is written")


class PacedGame(Game):
    """A game whose steps take this many seconds, so that a run that waits for something leaves the cores alone."""

    def __init__(self, make: Callable[[str], Game], seconds: float, level: str) -> None:
        self._game, self._seconds = make(level), seconds

    def reset(self, seed: int) -> Observation:
        return self._game.reset(seed)

    def step(self, action: int) -> Outcome:
        time.sleep(self._seconds)
        return self._game.step(action)

    def close(self) -> None:
        self._game.close()


def paced(config: EnvConfig) -> Suite:
    """The suite `tiny` whose games take a millisecond for each step."""
    suite = tiny(config)
    return replace(suite, name="paced", make_game=functools.partial(PacedGame, suite.make_game, 1e-3))


def tiny_processes(config: EnvConfig) -> Suite:
    """The suite `tiny` with each game in a child process, as for DeepMind Lab."""
    return in_processes(tiny(config), "tiny_processes")


def contradictions(config: EnvConfig) -> Suite:
    """Five tasks of the suite `interference` that contradict each other everywhere."""
    tasks = InterferenceConfig(tasks=5, contradiction=1.0)
    return replace(interference(config.model_copy(update={"interference": tasks})), name="contradictions")


def contradictions_processes(config: EnvConfig) -> Suite:
    """The suite `contradictions` with each game in a child process."""
    return in_processes(contradictions(config), "contradictions_processes")


def paced_processes(config: EnvConfig) -> Suite:
    """The suite `tiny_processes` whose games, which step at the same time, take ten milliseconds for each step."""
    suite = tiny(config)
    paced_games = replace(suite, make_game=functools.partial(PacedGame, suite.make_game, 1e-2))
    return in_processes(paced_games, "paced_processes")


def in_processes(suite: Suite, name: str) -> Suite:
    """The suite with each game in a child process."""

    def make(level: str) -> ProcessGame:
        return ProcessGame(functools.partial(in_child, suite.make_game, level), level, timeout_s=60)

    return replace(suite, name=name, make_game=make, step_threads=256)


def in_child(make: Callable[[str], Game], level: str, folder: str) -> Game:
    return make(level)


class ScaledGame(Game):
    """One step: a digit of four is shown; `ones` pays 1 for repeating it, `thousands` 1000 for the next digit."""

    def __init__(self, level: str) -> None:
        self.level = level

    def reset(self, seed: int) -> Observation:
        self.digit = seed % 4
        return Observation(np.eye(4, dtype=np.float32)[self.digit])

    def step(self, action: int) -> Outcome:
        right = self.digit if self.level == "ones" else (self.digit + 1) % 4
        reward = (1.0 if self.level == "ones" else 1000.0) * (action == right)
        return Outcome(Observation(np.zeros(4, np.float32)), reward, terminated=True)

    def close(self) -> None:
        """Nothing to free."""


def scaled(config: EnvConfig) -> Suite:
    levels = choose_levels("scaled", [Level("ones", 0.25, 1.0), Level("thousands", 250.0, 1000.0)], config.levels)
    return Suite("scaled", levels, Spaces((4,), "float32", 4, len(levels), False), tuple("abcd"), ScaledGame)
