"""A game in a child process, so that a crash, abort, exit or hang of the game costs only an episode.

The child is a fresh interpreter, never a fork, because an engine that has drawn a frame hangs in a forked child.
`process_messages` says what parent and child exchange.

The child and the processes that it starts (DeepMind Lab compiles maps in processes of its own) die with the parent.
They form one process group. The child holds the read end of a pipe on which nothing is ever written. When the write
end closes with the parent, the kernel kills the group, even if the child hangs in code that never returns to
Python.
"""

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from impala_mi.envs.base import Game, GameFault, Observation, Outcome, RemoteGame, game_counts
from impala_mi.envs.hang import HangWatch
from impala_mi.envs.process_messages import CLOSE, MAKE, RESET, STEP, ActorEnd, GameEnd, GameError
from impala_mi.host.tempdirs import tempdir

_CLOSE_S = 5.0
"""Timeout of an orderly close."""
LOG_LINES, MAX_LINE_CHARS = 20, 300
"""Lines of a game's output that a fault reports, and characters of each."""
_LOG_BYTES, _LOG_EVERY = 2**20, 100
"""Size beyond which the output of a game is truncated, and the number of calls between checks of that size."""


Method = Literal["reset", "step"]
_METHODS = {"reset": RESET, "step": STEP}


@dataclass(slots=True)
class _Call:
    """A call whose answer has not been taken."""

    method: Method
    error: Exception | None = None
    """Error that kept the call from being sent."""
    watch: HangWatch | None = None
    """Watch over the call, if it was sent."""
    look_at: float = 0.0
    """Time on the monotonic clock until which an answer is waited for before the watch decides."""

    def answer(self, child: "_Child") -> tuple[Any, dict[str, int]]:
        """Answer and counters, waited for until the game hangs; raises what `_Child.finish` raises."""
        assert self.watch is not None
        while True:
            try:
                return child.finish(wait=time.monotonic() < self.look_at)
            except TimeoutError:
                if (problem := self.watch.problem()) is not None:
                    raise TimeoutError(problem) from None
                self.look_at = time.monotonic() + self.watch.every_s


class ProcessGame(RemoteGame):
    """A game that runs in a child process, which the first `reset` starts.

    An actor with many of them begins all steps before it waits for any. If an exception like `KeyboardInterrupt`
    comes between a call and its answer, the process is killed: the next call must not get that answer.

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
        self._call: _Call | None = None
        self._interrupted = False
        self._counts: Counter[str] = Counter()

    def reset(self, seed: int) -> Observation:
        """Start an episode, in a new process if necessary; raises `GameFault`."""
        if self._call is not None:  # an exception came before its answer
            self._kill()
        if self._child is None:
            try:
                self._child = _Child(self._make)
            except OSError as e:  # no process, memory or disk is left
                raise GameFault("crash", f"{self._name}: cannot be started: {e}") from None
        self._begin("reset", seed)
        return _copied(self._finish())

    def step(self, action: Any) -> Outcome:
        """Act; raises `GameFault`."""
        self.begin_step(action)
        outcome: Outcome = self.finish_step()
        return (
            outcome if type(outcome) is not Outcome else outcome._replace(observation=_copied(outcome.observation))
        )

    def begin_step(self, action: Any) -> None:
        """Begin to act; see `RemoteGame`."""
        if self._call is not None:
            self._kill()
        self._begin("step", action)

    def finish_step(self) -> Outcome:
        """Wait for the outcome of `begin_step`; see `RemoteGame`. Raises `GameFault`."""
        outcome: Outcome = self._finish()
        return outcome

    def awaited(self) -> tuple[int, float] | None:
        """Descriptor and next look at the outcome; see `RemoteGame`."""
        if self._call is None or self._child is None or self._call.error is not None:
            return None
        return self._child.fileno(), self._call.look_at

    def counts(self) -> dict[str, int]:
        """Counters of the game since the last call."""
        counts, self._counts = dict(self._counts), Counter()
        return counts

    def close(self) -> None:
        """Close the game, end its process and remove its files."""
        if self._child is not None:
            self._child.close(pending=self._call is not None and self._call.error is None)
        self._child = self._call = None

    def interrupt(self) -> None:
        """Make the call that another thread waits for raise `RuntimeError`, and every later call."""
        self._interrupted = True
        if self._call is not None and (child := self._child) is not None:
            child.kill_group()

    def _begin(self, method: Method, argument: Any) -> None:
        """Send a call; `_finish` raises what goes wrong."""
        self._call = call = _Call(method)  # before `_interrupted` is read, so that `interrupt` misses no call
        strict_s = self._step_timeout_s if method == "step" else None
        try:
            if self._child is None:
                raise GameFault("error", f"{self._name}: {method} after a fault; reset first")
            if self._interrupted:
                raise RuntimeError(f"{self._name}: interrupted before {method}")
            call.watch = self._child.watch(self._timeout_s if strict_s is None else strict_s, strict_s is None)
            call.look_at = time.monotonic() + call.watch.every_s
            self._child.begin(_METHODS[method], argument, call.watch.every_s)
        except Exception as e:
            call.error = e

    def _finish(self) -> Any:
        """Answer to the call that was sent; raises `GameFault`, and `RuntimeError` after an interrupt."""
        call, child = self._call, self._child
        assert call is not None, "no step was begun"
        kind: Literal["crash", "hang", "error"]
        try:
            if call.error is not None:
                raise call.error
            assert child is not None
            answer, counts = call.answer(child)
            if counts:
                self._counts.update(counts)
            self._call = None
            return answer
        except GameError as e:
            kind, message = "error", str(e)
        except TimeoutError as e:
            kind, message = "hang", f"no answer to {call.method} {e}"
        except OSError as e:
            assert child is not None
            how = child.describe_exit() if isinstance(e, ConnectionError) else str(e)
            kind, message = "crash", f"in {call.method}: {how}"
        except BaseException:  # the answer of a call that was not waited for must not be that of the next
            self._kill()
            raise
        output = "" if child is None else child.last_lines()
        self._kill()
        if self._interrupted:
            raise RuntimeError(f"{self._name}: interrupted in {call.method}")
        raise GameFault(kind, f"{self._name}: {message}", output)

    def _kill(self) -> None:
        child, self._child, self._call = self._child, None, None
        if child is not None:
            child.kill()


def _copied(observation: Any) -> Any:
    """An observation of its own, where the frame is a view of shared memory."""
    if type(observation) is Observation and isinstance(observation.frame, np.ndarray):
        return observation._replace(frame=observation.frame.copy())
    return observation


class _Child:
    """The child process with its socket, its life-line pipe and its folder."""

    def __init__(self, make: Callable[[str], Game]) -> None:
        self._folder = tempdir("game")
        self._path = Path(self._folder.name)
        self._log = self._path / "log"
        self._calls = 0
        parent_socket, child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end = ActorEnd(parent_socket)
        read_end, self._write_end = os.pipe()
        try:
            self._process = self._start(child_socket.fileno(), read_end)
        except BaseException:
            self._free()
            raise
        finally:
            child_socket.close()
            os.close(read_end)
        try:
            self._end.request(MAKE, make)
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

    def fileno(self) -> int:
        """Descriptor that becomes readable with an answer, or with the end of the child."""
        return self._end.fileno()

    def watch(self, timeout_s: float, computing_counts: bool) -> HangWatch:
        """Watch over a call that begins now."""
        return HangWatch(self._process.pid, self._path, timeout_s, computing_counts)

    def begin(self, method: int, argument: Any, timeout_s: float) -> None:
        """Send a call; raises `OSError` if the child has ended, and exceptions of `pickle`."""
        self._end.set_timeout(timeout_s)
        self._end.request(method, argument)

    def finish(self, wait: bool = True) -> tuple[Any, dict[str, int]]:
        """Answer and counters, waited for unless they must have arrived; raises what `ActorEnd.reply` raises."""
        reply = self._end.reply(wait)
        self._calls += 1
        if self._calls % _LOG_EVERY == 0:
            with suppress(OSError):
                if self._log.stat().st_size > _LOG_BYTES:
                    os.truncate(self._log, 0)  # the child appends, so it continues at the start
        return reply

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

    def close(self, pending: bool) -> None:
        """Close the game in order, after the answer that is `pending`, or kill it if that takes too long."""
        with suppress(Exception):
            if pending:
                self._end.set_timeout(_CLOSE_S)
                self.finish()
            self.begin(CLOSE, 0, _CLOSE_S)
            self.finish()
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
        self._end.close()
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


def _play(end: GameEnd, folder: str) -> None:
    """Answer calls until `CLOSE`, or until the parent closes the socket."""
    make: Callable[[str], Game] = end.request()[1]
    game: Game | None = None
    while True:
        try:
            method, argument = end.request()
        except ConnectionResetError:
            sys.exit(0)
        if method == CLOSE:
            break
        try:
            if method == RESET and game is None:
                game = make(folder)
            assert game is not None
            answer = game.reset(argument) if method == RESET else game.step(argument)
            end.reply(answer, game_counts(game))
        except Exception as e:  # any error of the game costs an episode
            end.fail(f"{type(e).__name__}: {e}"[:2000])
    with suppress(Exception):
        if game is not None:
            game.close()
    with suppress(OSError):
        end.reply(None)
    os._exit(0)  # skips the clean-up of the engine at exit, which may crash


def main() -> None:
    """Run the child with the arguments MODULE_PATH SOCKET LIFE_LINE FOLDER."""
    connection, life_line, folder = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    for end in (connection, life_line):
        os.set_inheritable(end, False)  # otherwise programs that the game starts would keep the socket open
    _die_with_parent(life_line)
    _play(GameEnd(socket.socket(fileno=connection)), folder)
