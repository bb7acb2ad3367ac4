"""A game in a child process, so that a crash, abort, exit or hang of the game costs only an episode.

The child is a fresh interpreter, never a fork, because an engine that has drawn a frame hangs in a forked child.
Parent and child exchange pickled messages over a socket that preserves the boundaries of packets (SOCK_SEQPACKET).

The child and the processes that it starts (DeepMind Lab compiles maps in processes of its own) die with the parent.
They form one process group. The child holds the read end of a pipe on which nothing is ever written. When the write
end closes with the parent, the kernel kills the group, even if the child hangs in code that never returns to
Python.
"""

import fcntl
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from impala_mi.envs.base import Game, GameFault, Observation, Outcome, game_counts
from impala_mi.envs.hang import HangWatch
from impala_mi.host.tempdirs import tempdir

PACKET_BYTES = 2**17
"""Largest packet of a message; Linux accepts less than net.core.wmem_max, by default 212,992 bytes. A message of
one frame, which has tens of kB, is one packet."""
_HEADER = struct.Struct("<Q")
"""Bytes of a message, at the start of its first packet."""
_CLOSE_S = 5.0
"""Timeout of an orderly close."""
LOG_LINES, MAX_LINE_CHARS = 20, 300
"""Lines of a game's output that a fault reports, and characters of each."""
_LOG_BYTES, _LOG_EVERY = 2**20, 100
"""Size beyond which the output of a game is truncated, and the number of calls between checks of that size."""


class _Connection:
    """Pickled messages of any size over a socket."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._buffer = bytearray(PACKET_BYTES)

    def send(self, message: Any) -> None:
        """Send a message; raises `OSError`."""
        content = memoryview(pickle.dumps(message, protocol=5))
        first = PACKET_BYTES - _HEADER.size
        self.socket.sendmsg([_HEADER.pack(len(content)), content[:first]])
        for start in range(first, len(content), PACKET_BYTES):
            self.socket.send(content[start : start + PACKET_BYTES])

    def receive(self) -> Any:
        """Next message; raises `OSError`, `ConnectionResetError` if the other end is closed."""
        end = self._receive_packet(0)
        total = _HEADER.size + _HEADER.unpack_from(self._buffer)[0]
        if total > len(self._buffer):  # room for a packet behind the last byte
            self._buffer.extend(bytes(total + PACKET_BYTES - len(self._buffer)))
        while end < total:
            end += self._receive_packet(end)
        return pickle.loads(memoryview(self._buffer)[_HEADER.size : total])

    def _receive_packet(self, start: int) -> int:
        size = self.socket.recv_into(memoryview(self._buffer)[start:], min(PACKET_BYTES, len(self._buffer) - start))
        if size == 0:
            raise ConnectionResetError
        return size

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class ProcessGame(Game):
    """A game that runs in a child process, which the first `reset` starts.

    Args:
        make: makes the game in the child, given a folder for temporary files; it is pickled.
        name: name of the level, for messages.
        timeout_s: seconds without an answer or CPU time after which a call counts as a hang; see `HangWatch`.
        step_timeout_s: seconds after which a step counts as a hang, even if it computes; None: as for a reset.
    """

    def __init__(
        self, make: Callable[[str], Game], name: str, timeout_s: float, step_timeout_s: float | None = None
    ) -> None:
        self._make, self._name = make, name
        self._timeout_s, self._step_timeout_s = timeout_s, step_timeout_s
        self._child: _Child | None = None
        self._calling, self._interrupted = False, False
        self._counts: Counter[str] = Counter()

    def reset(self, seed: int) -> Observation:
        """Start an episode, in a new process if necessary; raises `GameFault`."""
        if self._child is None:
            try:
                self._child = _Child(self._make)
            except OSError as e:  # no process, memory or disk is left
                raise GameFault("crash", f"{self._name}: cannot be started: {e}") from None
        observation: Observation = self._call("reset", seed)
        return observation

    def step(self, action: Any) -> Outcome:
        """Act; raises `GameFault`."""
        outcome: Outcome = self._call("step", action)
        return outcome

    def counts(self) -> dict[str, int]:
        """Counters of the game since the last call."""
        counts, self._counts = dict(self._counts), Counter()
        return counts

    def close(self) -> None:
        """Close the game, end its process and remove its files."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def interrupt(self) -> None:
        """Make the call that another thread waits for raise `RuntimeError`, and every later call."""
        self._interrupted = True
        if self._calling and (child := self._child) is not None:
            child.kill_group()

    def _call(self, method: str, argument: Any) -> Any:
        if (child := self._child) is None:
            raise GameFault("error", f"{self._name}: {method} after a fault; reset first")
        kind: Literal["crash", "hang", "error"]
        self._calling = True  # set before `_interrupted` is read, so that `interrupt` misses no call
        try:
            if self._interrupted:
                raise RuntimeError(f"{self._name}: interrupted before {method}")
            strict_s = self._step_timeout_s if method == "step" else None
            timeout_s = self._timeout_s if strict_s is None else strict_s
            succeeded, answer, counts = child.call((method, argument), timeout_s, strict_s is None)
            self._counts.update(counts)
            if succeeded:
                return answer
            kind, message = "error", answer
        except TimeoutError as e:
            kind, message = "hang", f"no answer to {method} {e}"
        except OSError:
            kind, message = "crash", f"in {method}: {child.describe_exit()}"
        finally:
            self._calling = False
        self._child = None
        output = child.last_lines()
        child.kill()
        if self._interrupted:
            raise RuntimeError(f"{self._name}: interrupted in {method}")
        raise GameFault(kind, f"{self._name}: {message}", output)


class _Child:
    """The child process with its socket, its life-line pipe and its folder."""

    def __init__(self, make: Callable[[str], Game]) -> None:
        self._folder = tempdir("game")
        self._log = Path(self._folder.name) / "log"
        self._calls = 0
        parent_socket, child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection = _Connection(parent_socket)
        read_end, self._write_end = os.pipe()
        try:
            for end in (parent_socket, child_socket):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PACKET_BYTES)
            self._process = self._start(child_socket.fileno(), read_end)
        except BaseException:
            self._free()
            raise
        finally:
            child_socket.close()
            os.close(read_end)
        try:
            self._connection.send(make)
        except BaseException:
            self.kill()
            raise

    def _start(self, connection: int, life_line: int) -> "subprocess.Popen[bytes]":
        paths = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), self._folder.name)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-c",
                    _START,
                    _module_path(),
                    str(connection),
                    str(life_line),
                    self._folder.name,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | threads | paths,
                pass_fds=(connection, life_line),
                start_new_session=True,  # Ctrl-C reaches only the parent, which closes the games
            )

    def call(self, message: Any, timeout_s: float, computing_counts: bool = False) -> Any:
        """Send a message and return the answer; raises `TimeoutError`, or `OSError` if the child has ended.

        See `HangWatch` for the other arguments.
        """
        watch = HangWatch(self._process.pid, Path(self._folder.name), timeout_s, computing_counts)
        self._connection.socket.settimeout(watch.every_s)
        self._connection.send(message)
        while True:
            try:
                answer = self._connection.receive()
                break
            except TimeoutError:
                if (problem := watch.problem()) is not None:
                    raise TimeoutError(problem) from None
        self._calls += 1
        if self._calls % _LOG_EVERY == 0:
            with suppress(OSError):
                if self._log.stat().st_size > _LOG_BYTES:
                    os.truncate(self._log, 0)  # the child appends, so it continues at the start
        return answer

    def describe_exit(self) -> str:
        """How the process ended, and the last line that it printed; called once its socket is closed."""
        deadline = time.monotonic() + _CLOSE_S
        # WNOWAIT leaves the process unreaped: its id, which is that of the group, cannot be reused before `kill`.
        while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self.kill_group()
        code = self._process.wait()
        how = f"exit code {code}"
        if code < 0:
            known = -code in set(signal.Signals)
            how = f"ended by {signal.Signals(-code).name if known else f'signal {-code}'}"
        last = self.last_lines(1).strip()
        return f"{how}: {last}" if last else how

    def last_lines(self, most: int = LOG_LINES) -> str:
        """The last lines that the processes of the game printed, without empty ones."""
        lines: list[str] = []
        with suppress(OSError):
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(line.rstrip()[:MAX_LINE_CHARS] for line in lines[-most:])

    def close(self) -> None:
        """Close the game in order, or kill it if that takes too long."""
        with suppress(OSError):
            self.call(("close", 0), _CLOSE_S)
        self.kill()

    def kill_group(self) -> None:
        """Kill the process and the processes it started; `kill` must still be called."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the process and the processes it started, and remove its files."""
        self.kill_group()
        self._process.wait()
        self._free()

    def _free(self) -> None:
        self._connection.close()
        os.close(self._write_end)
        self._folder.cleanup()


_START = """
import sys
sys.path[:] = sys.argv[1].split(chr(0x1F))
from impala_mi.envs.process import main
main()
"""
"""Program of the child. `-P` keeps the current folder out of its path until the modules that Python starts with are
there, and `_module_path` puts it behind all others, so that a random.py in it replaces nothing."""


def _module_path() -> str:
    """Path of modules for the child: this process's own, with the current folder last."""
    current = {"", ".", str(Path.cwd())}
    own = [path for path in sys.path if path not in current]
    return "\x1f".join([*own, str(Path.cwd())] if len(own) < len(sys.path) else own)


def _die_with_parent(life_line: int) -> None:
    """Make the kernel kill this process group when the last write end of the pipe is closed."""
    fcntl.fcntl(life_line, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(life_line, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life_line, fcntl.F_SETFL, fcntl.fcntl(life_line, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(life_line, select.POLLHUP)
    if poll.poll(0):  # the parent has ended before the signal was set up
        sys.exit(1)


def _play(connection: _Connection, folder: str) -> None:
    """Answer calls until `close`, or until the parent closes the socket."""
    make: Callable[[str], Game] = connection.receive()
    game: Game | None = None
    while True:
        try:
            method, argument = connection.receive()
        except ConnectionResetError:
            sys.exit(0)
        answer: Any = None
        succeeded, counts = True, {}
        try:
            if method == "close":
                if game is not None:
                    game.close()
            elif method == "reset":
                if game is None:
                    game = make(folder)
                answer = game.reset(argument)
            else:
                assert game is not None
                answer = game.step(argument)
            counts = game_counts(game) if game is not None else {}
        except Exception as e:  # any error of the game costs an episode
            succeeded, answer = False, f"{type(e).__name__}: {e}"[:2000]
        connection.send((succeeded, answer, counts))
        if method == "close":
            os._exit(0)  # skips the clean-up of the engine at exit, which may crash


def main() -> None:
    """Run the child with the arguments MODULE_PATH SOCKET LIFE_LINE FOLDER."""
    connection, life_line, folder = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    for end in (connection, life_line):
        os.set_inheritable(end, False)  # otherwise programs that the game starts would keep the socket open
    _die_with_parent(life_line)
    _play(_Connection(socket.socket(fileno=connection)), folder)
