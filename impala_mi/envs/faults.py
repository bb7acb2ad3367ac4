"""Faults of games: what they are, how they are counted, and when a level is abandoned."""

import threading
from collections import deque
from typing import Literal

from impala_mi.errors import TrainingError, UserError
from impala_mi.host.backoff import backoff
from impala_mi.types import Fault

MAX_FAULTS_IN_A_ROW = 10
"""Consecutive faults before a level is abandoned, if it may be."""
MAX_PAUSE_S = 60.0
"""Longest pause before a game that keeps faulting is restarted."""
MAX_FAULT_CHARS = 1000
"""Characters of a fault's message."""
HANGS_OF_A_SEED = 3
"""Consecutive hangs of a reset after which the next attempt has another seed."""
FORGIVE_AFTER_STEPS = 100
"""Steps of one episode after which earlier faults are forgiven; the end of an episode forgives them too."""


GiveUp = Literal["never", "first", "always"]
"""Whether a level that keeps faulting is abandoned: never, only before its first good stretch, or always."""


class GameFault(Exception):
    """A game crashed, hung or raised an error. Its episode is lost; the next `reset` restarts the game."""

    def __init__(self, kind: Literal["crash", "hang", "error"], message: str, output: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.output = output
        """The last lines that the game printed, if it has a process of its own."""


class LevelBroken(TrainingError):
    """A level does not work on this machine."""

    def __init__(self, level: int, message: str) -> None:
        super().__init__(level, message)  # both are needed to unpickle it in another process
        self.level = level

    def __str__(self) -> str:
        return str(self.args[1])


class FaultLog:
    """Faults of a level in one actor: reports them, pauses before the next attempt, and abandons a broken level.

    `MAX_FAULTS_IN_A_ROW` faults abandon it as `give_up` says. So do, unless that is "never", as many exceptions
    other than `GameFault` since an episode last ended, even in a level that has worked: its code is wrong.

    Args:
        level: index of the level.
        give_up: whether the level may be abandoned.
    """

    def __init__(self, level: int, give_up: GiveUp) -> None:
        self.interrupted = threading.Event()
        self._level, self._give_up = level, give_up
        self._worked, self._in_a_row, self._errors = False, 0, 0
        self._faults = deque[Fault]()

    def __len__(self) -> int:
        return len(self._faults)

    def add(self, error: Exception, seed: int, place: str) -> None:
        """Record an exception of the game at a place, then pause.

        Raises the exception if it is no fault, and `LevelBroken` if the level is abandoned.
        """
        own = not isinstance(error, GameFault)
        if isinstance(error, TrainingError | UserError) or (own and self.interrupted.is_set()):
            raise error
        message = f"{place}: {type(error).__name__}: {error}"[:MAX_FAULT_CHARS] if own else str(error)
        kind, output = (error.kind, error.output) if isinstance(error, GameFault) else ("error", "")
        self.report(kind, seed, message, output)
        self._in_a_row += 1
        self._errors += own
        most = MAX_FAULTS_IN_A_ROW
        may_give_up = self._give_up == "always" or (self._give_up == "first" and not self._worked)
        if may_give_up and self._in_a_row >= most:
            printed = f"\nthe last lines it printed:\n{output}" if output else ""
            raise LevelBroken(self._level, f"a level failed {most} times in a row: {message}{printed}")
        if self._give_up != "never" and self._errors >= most:
            raise LevelBroken(self._level, f"a level failed {most} times before an episode ended: {message}")
        if pause_s := backoff(self._in_a_row, MAX_PAUSE_S):
            self.interrupted.wait(pause_s)

    def report(self, kind: str, seed: int, message: str, output: str = "") -> None:
        """Record a fault that costs no episode, or whose episode is ended elsewhere."""
        self._faults.append(Fault(seed, kind, message[:MAX_FAULT_CHARS], output))

    def forgive(self, episode_ended: bool) -> None:
        """Begin to count anew: an episode ended, or has had `FORGIVE_AFTER_STEPS` steps."""
        self._worked, self._in_a_row = True, 0
        if episode_ended:
            self._errors = 0

    def check_interrupt(self) -> None:
        """Raise `RuntimeError` after an interrupt."""
        if self.interrupted.is_set():
            raise RuntimeError("interrupted")

    def take(self) -> list[Fault]:
        """Faults since the last call; another thread may call it."""
        return [self._faults.popleft() for _ in range(len(self._faults))]
