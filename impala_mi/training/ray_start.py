"""Start of Ray on a machine that may be busy, and a question whether the cluster of RAY_ADDRESS still exists."""

import contextlib
import math
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import ray
from ray._private import services
from ray._private.node import Node
from ray._raylet import GcsClient  # type: ignore[attr-defined]

try:
    from ray._raylet import persist_port  # type: ignore[attr-defined]
except ImportError:  # an older Ray, whose raylet waits for no files
    persist_port = None

from impala_mi.errors import StartError, UserError
from impala_mi.host.threads import cores

ANSWER_S = 6.0
"""Seconds that a cluster has to answer a connection."""
NODE_S = 180.0
"""Seconds that the node of a private Ray has to start; Ray alone gives up after 30."""
START_S = 600.0
"""Seconds that all starts of a private Ray for a run may take together."""
ATTEMPTS = 3
"""Times that a private Ray is started before the run fails."""
AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
"""Parameters of a node of Ray: the ports of its agents."""
PATIENCE = {
    "RAY_gcs_server_port_wait_time_s": str(int(NODE_S)),
    "RAY_agent_register_timeout_ms": str(int(NODE_S * 1000)),
}
"""Environment variables by which Ray's processes wait as long for each other as the driver does for the node."""
TOKEN = "its token belongs into RAY_AUTH_TOKEN or the file of RAY_AUTH_TOKEN_PATH"
"""Advice for a process that a cluster refuses."""
_POLL_S = 0.5
_ALARM_S = 5.0
"""Seconds between signals to a start whose time is up."""
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""First bytes of a client of HTTP/2: the preface and an empty SETTINGS frame (RFC 9113, section 3.4)."""
_FRAME_HEADER_BYTES, _FRAME_TYPE, _SETTINGS = 9, 3, 4


def check_cluster(address: str) -> None:
    """Check that a cluster of Ray answers at the address in RAY_ADDRESS, and takes this process's token.

    Raises `UserError` if it is no address, and `StartError` if nothing answers within `ANSWER_S` seconds. Ray
    itself would try for minutes, and log every attempt.
    """
    if address == "local":
        return
    client = address.startswith("ray://")
    try:
        full = address.removeprefix("ray://") if client else services.canonicalize_bootstrap_address(address) or ""
        host, _, port = full.rpartition(":")
        if not host or not 0 < int(port) < 2**16:
            raise ValueError
    except ValueError:
        raise UserError(
            f"RAY_ADDRESS={address!r}: write it as HOST:PORT, or unset it to train on this machine alone"
        ) from None
    except OSError as e:  # no cluster on this machine, or no such host
        raise _gone(address, e.strerror or str(e)) from None
    errors: list[str] = ["no answer"]
    thread = threading.Thread(target=_ask, args=(host.strip("[]"), int(port), errors), daemon=True)
    thread.start()
    thread.join(ANSWER_S)  # the look-up of a name has no limit of its own
    if errors:
        raise _gone(address, errors[-1])
    if not client:
        try:
            with _silent_stderr():
                GcsClient(address=full)
        except Exception as e:  # of any type
            message = f"RAY_ADDRESS={address}: the cluster refuses this process: {first_line(e)}; {TOKEN}"
            raise StartError(message) from None


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the error itself if it has none."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def _gone(address: str, reason: str) -> StartError:
    return StartError(
        f"RAY_ADDRESS={address}: no Ray cluster answers there ({reason}); start it, or unset RAY_ADDRESS to train "
        "on this machine alone"
    )


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what any code of this process, compiled code too, writes to the standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _ask(host: str, port: int, errors: list[str]) -> None:
    """Greet a server of gRPC, as Ray's are; empties `errors` if it answers, and adds the reason if it does not."""
    deadline = time.monotonic() + ANSWER_S - 1
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S / 2) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):
                connection.settimeout(max(0.1, deadline - time.monotonic()))
                connection.sendall(_HTTP2_HELLO)
                answer = connection.recv(_FRAME_HEADER_BYTES, socket.MSG_WAITALL)
                if len(answer) < _FRAME_HEADER_BYTES or answer[_FRAME_TYPE] != _SETTINGS:
                    raise ConnectionError("what listens there is not Ray")
        errors.clear()
    except TimeoutError:
        errors.append("no answer")
    except OSError as e:
        errors.append(e.strerror or str(e))


class _TooLong(BaseException):
    """The time for a start is up; no `except Exception` of Ray's keeps it."""


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise `_TooLong` in the `with` block after some seconds, as Ctrl-C would raise KeyboardInterrupt.

    A start that went on in a thread of its own would be left half done, so a watchdog thread sends SIGUSR2 to the
    main thread, which runs the block: this ends Python code, and compiled code only when that returns. The alarm of
    the process stays free, for `host.signals` and for the program around. In other threads, and if compiled code
    handles SIGUSR2, there is no limit but the deadline of `patient_node`.
    """
    main, ended = threading.main_thread(), threading.Event()
    if threading.current_thread() is not main or signal.getsignal(signal.SIGUSR2) is None:
        yield
        return

    def stop(*_: object) -> None:
        if not ended.is_set():
            raise _TooLong

    def watch() -> None:
        pause_s = max(seconds, 0.0)
        while not ended.wait(pause_s):
            signal.pthread_kill(main.ident or 0, signal.SIGUSR2)
            pause_s = _ALARM_S

    before = signal.signal(signal.SIGUSR2, stop)
    watchdog = threading.Thread(target=watch, name="start limit", daemon=True)
    try:
        watchdog.start()
        try:
            yield
        finally:
            ended.set()
    finally:
        ended.set()  # again: a signal may arrive just before the first
        watchdog.join()  # no signal comes after this, and without the handler one would end the process
        signal.signal(signal.SIGUSR2, before)


def start_node(end: Callable[[], None], **options: Any) -> None:
    """Start a private Ray with `ray.init(**options)`, and again, more patiently, if that fails within `START_S`.

    Args:
        end: ends the processes of a start that failed.
        options: arguments of `ray.init`.

    Raises `StartError` if Ray does not start, and `UserError` if it does not accept an option.
    """
    deadline = time.monotonic() + START_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with (
                patient_node(deadline),
                contextlib.nullcontext() if attempt == 1 else known_ports(),
                _limit(deadline - time.monotonic()),
            ):
                ray.init(**options)
            return
        except (ValueError, TypeError) as e:  # of an argument, such as the size of the object store
            raise UserError(f"Ray does not start on this machine: {first_line(e)}") from None
        except (Exception, _TooLong) as e:  # of any type
            end()
            late = time.monotonic() >= deadline
            reason = f"it took longer than {START_S:.0f} s" if late else first_line(e)
            load = f"load {os.getloadavg()[0]:.1f} on {cores()} cores"
            if attempt == ATTEMPTS or late:
                advice = "; try again when the machine is less busy" if os.getloadavg()[0] > cores() else ""
                times = f"{attempt} time{'s' * (attempt > 1)}"
                raise StartError(
                    f"Ray did not start on this machine, tried {times} ({load}): {reason}{advice}"
                ) from None
            warnings.warn(f"Ray did not start on this machine ({load}): {reason}; starting it again", stacklevel=2)


@contextlib.contextmanager
def patient_node(latest: float = math.inf) -> Iterator[None]:
    """Let a node of Ray that starts inside the `with` block take `NODE_S` seconds, while its raylet lives.

    Ray has no option for this: it asks for the node's entry for 30 seconds, here each question waits longer, but
    not beyond the monotonic time `latest`.
    """
    ask = services.get_node

    def ask_patiently(*args: Any) -> Any:
        deadline = min(time.monotonic() + NODE_S, latest)
        while True:
            try:
                return ask(*args)
            except RuntimeError:  # not registered yet
                if not _raylet_lives():
                    raise ConnectionError("its raylet ended while it started") from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    services.get_node = ask_patiently
    try:
        yield
    finally:
        services.get_node = ask


@contextlib.contextmanager
def known_ports() -> Iterator[None]:
    """Choose the ports of the agents of a node of Ray that starts inside the `with` block.

    If the agents choose them, the raylet waits 15 seconds for each to write its port to a file, and then ends
    itself (https://github.com/ray-project/ray/issues/65983). Agents whose ports are known may take `NODE_S`
    seconds. Another process may take such a port before the agent does, so this is for machines where nothing
    else helps.
    """
    start = Node.start_head_processes

    def start_with_ports(node: Node) -> None:
        with contextlib.ExitStack() as stack:  # different ones: all are held until the last is chosen
            for name in AGENT_PORTS:
                if not getattr(node._ray_params, name, None):
                    held = stack.enter_context(socket.create_server(("", 0)))
                    setattr(node._ray_params, name, held.getsockname()[1])
        for name in AGENT_PORTS if persist_port else ():  # the raylet is not told all of them, it reads their files
            persist_port(node._session_dir, node._node_id, name, getattr(node._ray_params, name))
        start(node)

    Node.start_head_processes = start_with_ports  # type: ignore[method-assign]
    try:
        yield
    finally:
        Node.start_head_processes = start  # type: ignore[method-assign]


def _raylet_lives() -> bool:
    """Whether a raylet that this process has started is alive."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
