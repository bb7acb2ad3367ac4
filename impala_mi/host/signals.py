"""Signals that ask a run to end."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Raised instead of KeyboardInterrupt, which makes Python exit by SIGINT, not with 130, if it leaves `exec`.

    Dataclasses and named tuples call `exec` while a module is imported.
    """


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `Interrupted`; during an import wait until it ends, unless a second signal arrives meanwhile.

    PyTorch swallows an exception raised while it imports NumPy and continues half initialised.
    """
    pending_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    repeated = pending_s > 0 and number != signal.SIGALRM  # SIGALRM may arrive while its own timer still counts
    if _importing(frame) and not repeated:
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
    """Flag set by Ctrl-C, SIGTERM or SIGHUP: the run ends after a checkpoint. A second signal ends it at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.name: str | None = None
        """Name of the first signal that arrived, or None."""

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignal"]:
        """Handle the signals inside the `with` block and restore the old handlers after it."""
        old = {s: signal.getsignal(s) for s in self.SIGNALS}
        self.install()
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers; called again after Ray has started, which replaces them."""
        for number in self.SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name is None:
            self.name = signal.Signals(number).name
        else:
            interrupt(number, frame)
