"""Signals that ask a run to end."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Its own type: a plain one that meets `exec`, as dataclasses call it, makes Python end by SIGINT, not 130."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal as Python does Ctrl-C; where something is imported, after that, or at once if asked again.

    PyTorch swallows what is raised while it imports NumPy, and goes on with half of it.
    """
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    again = left_s > 0 and number != signal.SIGALRM  # which may come while its timer still counts as running
    if _importing(frame) and not again:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        raise Interrupted


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


class StopSignal:
    """Ctrl-C, SIGTERM or a lost terminal asks for an end after a checkpoint; a second one ends at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.name: str | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignal"]:
        """Handle the signals within."""
        old = {s: signal.getsignal(s) for s in self.SIGNALS}
        self.install()
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals (back): starting Ray sets a handler of its own."""
        for number in self.SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup wants it ignored
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name is None:
            self.name = signal.Signals(number).name
        else:
            interrupt(number, frame)
