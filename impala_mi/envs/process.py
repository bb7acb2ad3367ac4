"""A game in a process of its own, so that its crash, abort, exit or hang costs an episode and nothing else.

The child is a fresh interpreter, never a fork: an engine that has drawn hangs in a forked child. Parent and child
exchange pickled messages over a socket that keeps them apart (SOCK_SEQPACKET). The child dies with its parent, and
with it whatever it started (DeepMind Lab compiles maps in processes of its own): they are one process group, the
child holds the reading end of a pipe on which nothing is ever written, and the kernel kills the group when the
writing end goes, also while the child hangs in code that never returns to Python.
"""

import fcntl
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from impala_mi.envs.base import Game, GameFault, Observation, Outcome, game_counts
from impala_mi.host.tempdirs import tempdir

MESSAGE_BYTES = 2**20
"""Room for one message; a frame is tens of kB."""
_CLOSE_S = 5.0
_LOG_BYTES, _LOG_EVERY = 2**20, 100
"""What a game prints is kept up to this size, looked at after so many calls."""


class ProcessGame(Game):
    """A game that is made and played in a child process; it starts with the first `reset`.

    Args:
        make: makes the game in the child from a folder for its temporary files; it travels pickled.
        name: what it plays, for messages.
        timeout_s: a reset that takes longer is a hang.
        step_timeout_s: the same for a step; by default as long.
    """

    def __init__(
        self, make: Callable[[str], Game], name: str, timeout_s: float, step_timeout_s: float | None = None
    ) -> None:
        self._make, self._name = make, name
        self._timeout_s = {"reset": timeout_s, "step": timeout_s if step_timeout_s is None else step_timeout_s}
        self._child: _Child | None = None
        self._asking, self._interrupted = False, False
        self._counts: Counter[str] = Counter()

    def reset(self, seed: int) -> Observation:
        """Start an episode, in a new process if there is none; raises `GameFault`."""
        if self._child is None:
            try:
                self._child = _Child(self._make)
            except OSError as e:  # no more processes, memory or disk
                raise GameFault("crash", f"{self._name}: cannot be started: {e}") from None
        observation: Observation = self._ask("reset", seed)
        return observation

    def step(self, action: int) -> Outcome:
        """Act; raises `GameFault`."""
        outcome: Outcome = self._ask("step", action)
        return outcome

    def counts(self) -> dict[str, int]:
        """What the game counted since the last call."""
        counts, self._counts = dict(self._counts), Counter()
        return counts

    def close(self) -> None:
        """Let the game close, then end its process and remove its files."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def interrupt(self) -> None:
        """Have a call that another thread waits for raise `RuntimeError` now, and every later one."""
        self._interrupted = True
        if self._asking and (child := self._child) is not None:
            child.end()

    def _ask(self, call: str, argument: int) -> Any:
        if (child := self._child) is None:
            raise GameFault("error", f"{self._name}: {call} after a fault; reset first")
        kind: Literal["crash", "hang", "error"]
        self._asking = True  # before the question whether we were interrupted, see `interrupt`
        try:
            if self._interrupted:
                raise RuntimeError(f"{self._name}: interrupted before {call}")
            good, answer, counts = child.ask((call, argument), self._timeout_s[call])
            self._counts.update(counts)
            if good:
                return answer
            kind, what = "error", answer
        except TimeoutError:
            kind, what = "hang", f"no answer to {call} in {self._timeout_s[call]:g} s"
        except OSError:
            kind, what = "crash", f"in {call}: {child.last_words()}"
        finally:
            self._asking = False
        self._child = None
        child.kill()
        if self._interrupted:
            raise RuntimeError(f"{self._name}: interrupted in {call}")
        raise GameFault(kind, f"{self._name}: {what}")


class _Child:
    """The process, its socket, its life line and its folder."""

    def __init__(self, make: Callable[[str], Game]) -> None:
        self._folder = tempdir("game")
        self._log = Path(self._folder.name) / "log"
        self._room = bytearray(MESSAGE_BYTES)
        self._asked = 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        held, self._life = os.pipe()
        try:
            for end in (self._socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
            self._process = self._start(theirs.fileno(), held)
        except BaseException:
            self._free()
            raise
        finally:
            theirs.close()
            os.close(held)
        try:
            self._socket.send(pickle.dumps(make, protocol=5))
        except BaseException:
            self.kill()
            raise

    def _start(self, connection: int, life: int) -> "subprocess.Popen[bytes]":
        paths = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), self._folder.name)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = os.environ | threads | paths | {"PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", __name__, str(connection), str(life), self._folder.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(connection, life),
                start_new_session=True,  # Ctrl-C is for the parent, which closes games in order
            )

    def ask(self, message: Any, timeout_s: float) -> Any:
        """The answer; raises `TimeoutError`, or `OSError` where the child is gone."""
        self._socket.settimeout(timeout_s)
        self._socket.send(pickle.dumps(message, protocol=5))
        size = self._socket.recv_into(self._room)
        if size == 0:
            raise ConnectionResetError
        self._asked += 1
        if self._asked % _LOG_EVERY == 0:
            with suppress(OSError):
                if self._log.stat().st_size > _LOG_BYTES:
                    os.truncate(self._log, 0)  # opened for appending, so the child goes on at the start
        return pickle.loads(memoryview(self._room)[:size])

    def last_words(self) -> str:
        """How the process ended and the last line that it printed; its socket is closed, so it is ending."""
        deadline = time.monotonic() + _CLOSE_S
        # Looked at without being collected: until then its number, the group's, cannot be another's.
        while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self.end()  # what it started
        code = self._process.wait()
        end = f"exit code {code}"
        if code < 0:
            known = -code in set(signal.Signals)
            end = f"ended by {signal.Signals(-code).name if known else f'signal {-code}'}"
        lines: list[str] = []
        with suppress(OSError):
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{end}: {lines[-1].strip()[:300]}" if lines else end

    def close(self) -> None:
        """End it in order, or by force where it takes too long."""
        with suppress(OSError):
            self.ask(("close", 0), _CLOSE_S)
        self.kill()

    def end(self) -> None:
        """End it and what it started by force; `kill` is still to be called."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End it and what it started by force and remove its files."""
        self.end()
        self._process.wait()
        self._free()

    def _free(self) -> None:
        self._socket.close()
        os.close(self._life)
        self._folder.cleanup()


def _die_with(life: int) -> None:
    """Have the kernel kill this process's group when the last writing end of the pipe is closed."""
    fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    watch = select.poll()
    watch.register(life, select.POLLHUP)
    if watch.poll(0):  # it went before we watched
        sys.exit(1)


def _play(connection: socket.socket, folder: str) -> None:
    """Answer calls until `close`, or until the parent is gone."""
    room = bytearray(MESSAGE_BYTES)

    def receive() -> Any:
        size = connection.recv_into(room)
        if size == 0:
            sys.exit(0)
        return pickle.loads(memoryview(room)[:size])

    make: Callable[[str], Game] = receive()
    game: Game | None = None
    while True:
        call, argument = receive()
        answer: Any = None
        good, counts = True, {}
        try:
            if call == "close":
                if game is not None:
                    game.close()
            elif call == "reset":
                if game is None:
                    game = make(folder)
                answer = game.reset(argument)
            else:
                assert game is not None
                answer = game.step(argument)
            counts = game_counts(game) if game is not None else {}
        except Exception as e:  # whatever the game raises costs an episode
            good, answer = False, f"{type(e).__name__}: {e}"[:2000]
        connection.send(pickle.dumps((good, answer, counts), protocol=5))
        if call == "close":
            os._exit(0)  # an engine's clean-up at exit has nothing to add and can crash


def main() -> None:
    """The child: `python -m impala_mi.envs.process SOCKET LIFE FOLDER`."""
    connection, life, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    for end in (connection, life):
        os.set_inheritable(end, False)  # a program that the game starts would hide the game's end from the parent
    _die_with(life)
    _play(socket.socket(fileno=connection), folder)


if __name__ == "__main__":
    main()
