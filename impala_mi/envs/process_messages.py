"""Messages between an actor and a game in a child process: short packets, and frames in memory that both map.

A request to step and its reply are one packet of a few bytes each, with action, reward and flags in fixed places.
The child copies the frame to shared memory, and the actor reads it there. What has no fixed place follows in the
same packet as a pickle: a shape, dtype or instruction when it differs from that of the frame before, an error,
counters, and values of unusual types. A pickle that is too large for a packet lies in memory of its own.

All memory is anonymous (memfd): it has no name, does not depend on the size of /dev/shm, and is freed with the last
process that maps it, however that ends. A packet carries the descriptor of new memory.
"""

import array
import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from impala_mi.envs.base import Observation, Outcome

INLINE_BYTES = 8192
"""Largest pickle that travels in a packet. Linux accepts packets of 200 kB, but every step allocates a buffer."""
_REQUEST = struct.Struct("<BBq")
"""Parts, method, argument."""
_REPLY = struct.Struct("<BBBd")
"""Parts, flags, slot of the frame, reward."""
_PICKLE, _LARGE_PICKLE, _FRAMES = 1, 2, 4
"""Parts of a packet behind its header: a pickle, the descriptor of a large pickle's memory, and that of frames."""
_TERMINATED, _TRUNCATED, _FRAME, _RESET, _OTHER = 1, 2, 4, 8, 16
"""Flags of a reply: the end of an episode, a frame in the slot, an `Observation` instead of an `Outcome`, and an
answer that is pickled."""
_REWARDS = (float, int, np.floating, np.integer)
"""Types of rewards that are sent as a float64."""
MAKE, RESET, STEP, CLOSE = range(4)
"""Methods of a request."""
_TIMEVAL = struct.Struct("@ll")
"""Seconds and microseconds of a socket's timeout."""
_SHM = "/dev/shm"
_ANCILLARY_BYTES = socket.CMSG_SPACE(2 * array.array("i").itemsize)


class FrameKind(NamedTuple):
    """Shape and dtype of a frame."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Changes(NamedTuple):
    """Part of a reply that is pickled where it differs from None."""

    kind: FrameKind | None = None
    instruction: Any = None
    counts: dict[str, int] | None = None
    error: str | None = None
    """Message of the exception that the game raised."""
    value: Any = None
    """An answer that is no `Observation` or `Outcome` of the usual types."""


_UNCHANGED = Changes()


class GameError(Exception):
    """The game raised an exception, which the message describes."""


def _allocate(size: int) -> tuple[int, mmap.mmap]:
    """Descriptor and mapping of new memory; raises `OSError` if there is not enough, instead of a SIGBUS later."""
    descriptor = _memory_file()
    try:
        os.posix_fallocate(descriptor, 0, size)
        return descriptor, mmap.mmap(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


def _memory_file() -> int:
    """Descriptor of an empty file in memory, without a name.

    Pythons that were built for an old C library lack memfd. There it is a file that was removed, in /dev/shm if
    possible, so the size of /dev/shm or of the folder for temporary files is a limit.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("impala-mi-game", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(dir=_SHM if os.access(_SHM, os.W_OK) else None) as file:
        return os.dup(file.fileno())


def _slots(memory: mmap.mmap, kind: FrameKind) -> list[np.ndarray]:
    """The two places for frames in a memory, as arrays."""
    return [np.ndarray(kind.shape, kind.dtype, memory, start) for start in (0, len(memory) // 2)]


class _Channel:
    """Packets over a SOCK_SEQPACKET socket: a header, a pickle of any size, and new memory for frames."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, header: struct.Struct, fields: Sequence[Any], pickled: bytes = b"", frames: int = -1) -> None:
        """Send a packet and close the descriptor `frames`; raises `OSError`."""
        parts, descriptors = 0, [frames] if frames >= 0 else []
        try:
            if frames >= 0:
                parts |= _FRAMES
            if len(pickled) > INLINE_BYTES:
                descriptor, memory = _allocate(len(pickled))
                descriptors.append(descriptor)
                with memory:
                    memory[:] = pickled
                parts, pickled = parts | _LARGE_PICKLE, b""
            elif pickled:
                parts |= _PICKLE
            packet = header.pack(parts, *fields) + pickled
            if descriptors:
                socket.send_fds(self.socket, [packet], descriptors)
            else:
                self.socket.send(packet)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def receive(self, header: struct.Struct, flags: int = 0) -> tuple[Sequence[Any], Any, mmap.mmap | None]:
        """Fields, unpickled object (or None) and new memory of the next packet.

        Raises `BlockingIOError` after the socket's timeout, `ConnectionResetError` if the other end is closed, and
        other exceptions of `OSError` and of `pickle`.
        """
        packet, ancillary, _, _ = self.socket.recvmsg(
            header.size + INLINE_BYTES, _ANCILLARY_BYTES, flags | socket.MSG_CMSG_CLOEXEC
        )
        if not packet:
            raise ConnectionResetError
        parts, *fields = header.unpack_from(packet)
        if not parts:
            return fields, None, None
        descriptors = array.array("i")
        for _, _, content in ancillary:
            descriptors.frombytes(content)
        try:
            if len(descriptors) < (parts & _FRAMES > 0) + (parts & _LARGE_PICKLE > 0):
                raise OSError("too many open files: a descriptor of shared memory was lost")
            frames = mmap.mmap(descriptors[0], 0, access=mmap.ACCESS_READ) if parts & _FRAMES else None
            value = None
            if parts & _PICKLE:
                value = pickle.loads(memoryview(packet)[header.size :])
            elif parts & _LARGE_PICKLE:
                with mmap.mmap(descriptors[-1], 0, access=mmap.ACCESS_READ) as memory:
                    value = pickle.loads(memory)
            return fields, value, frames
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


class ActorEnd:
    """The actor's end: sends requests and reads replies."""

    def __init__(self, end: socket.socket) -> None:
        self._channel = _Channel(end)
        self._memory: mmap.mmap | None = None
        self._frames: list[np.ndarray] = []
        self._instruction: Any = ""
        self._timeout_s: float | None = None

    def fileno(self) -> int:
        """Descriptor that becomes readable with a reply."""
        return self._channel.socket.fileno()

    def request(self, method: int, argument: Any) -> None:
        """Send a request; raises `OSError`, and exceptions of `pickle`."""
        if type(argument) is int and -(2**63) <= argument < 2**63:
            self._channel.send(_REQUEST, (method, argument))
        else:
            self._channel.send(_REQUEST, (method, 0), pickle.dumps((argument,), protocol=5))

    def set_timeout(self, seconds: float) -> None:
        """Set the longest wait of `reply`. The kernel keeps it, so that a wait is one system call."""
        if seconds != self._timeout_s:
            self._timeout_s = seconds
            whole = min(int(seconds), 2**31)
            value = _TIMEVAL.pack(whole, max(int(1e6 * (seconds - whole)) % 10**6, 1))  # 0 would be no timeout
            self._channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def reply(self, wait: bool = True) -> tuple[Any, dict[str, int]]:
        """Answer of the game and its counters, waited for unless it must have arrived.

        The frame is a read-only view of shared memory, valid until the game is asked for the next frame but one.
        Raises `TimeoutError`, `GameError`, `ConnectionResetError` if the child has ended, and other exceptions of
        `OSError` and `pickle`.
        """
        try:
            fields, changes, memory = self._channel.receive(_REPLY, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise TimeoutError from None
        flags, slot, reward = fields
        if memory is not None:
            self._memory = memory  # the last one is unmapped with the last view of it
        counts: dict[str, int] = {}
        if changes is not None:
            if changes.error is not None:
                raise GameError(changes.error)
            if changes.kind is not None:
                assert self._memory is not None
                self._frames = _slots(self._memory, changes.kind)
            if changes.instruction is not None:
                self._instruction = changes.instruction
            counts = changes.counts or counts
            if flags & _OTHER:
                return changes.value, counts
        observation = Observation(self._frames[slot], self._instruction) if flags & _FRAME else None
        if flags & _RESET:
            return observation, counts
        return Outcome(observation, reward, flags & _TERMINATED != 0, flags & _TRUNCATED != 0), counts

    def close(self) -> None:
        """Close the socket; views of frames stay valid."""
        self._channel.socket.close()
        self._memory, self._frames = None, []


class GameEnd:
    """The child's end: reads requests and sends replies."""

    def __init__(self, end: socket.socket) -> None:
        self._channel = _Channel(end)
        self._memory: mmap.mmap | None = None
        self._kind: FrameKind | None = None
        self._frames: list[np.ndarray] = []
        self._slot = 0
        self._instruction = ""

    def request(self) -> tuple[int, Any]:
        """Wait for a request: method and argument; raises `ConnectionResetError` if the actor has ended."""
        (method, number), argument, _ = self._channel.receive(_REQUEST)
        return method, number if argument is None else argument[0]

    def fail(self, error: str) -> None:
        """Reply that the game raised an exception; raises `OSError`."""
        self._channel.send(_REPLY, (0, 0, 0.0), pickle.dumps(Changes(error=error)))

    def reply(self, answer: Any, counts: dict[str, int] | None = None) -> None:
        """Reply with the answer of the game; raises `OSError`, and exceptions of `pickle`."""
        changes = Changes(counts=counts) if counts else _UNCHANGED
        if type(answer) is Observation and _is_plain(answer):
            fields, changes, frames = self._show(_RESET, answer, 0.0, changes)
        elif type(answer) is Outcome and isinstance(answer.reward, _REWARDS) and _is_plain(answer.observation):
            flags = (_TERMINATED if answer.terminated else 0) | (_TRUNCATED if answer.truncated else 0)
            fields, changes, frames = self._show(flags, answer.observation, float(answer.reward), changes)
        else:
            fields, changes, frames = (_OTHER, 0, 0.0), changes._replace(value=answer), -1
        pickled = b"" if changes is _UNCHANGED else pickle.dumps(changes, protocol=5)
        self._channel.send(_REPLY, fields, pickled, frames)

    def _show(
        self, flags: int, observation: Observation | None, reward: float, changes: Changes
    ) -> tuple[tuple[int, int, float], Changes, int]:
        """Copy a frame to the slot that does not hold the last one.

        Returns the fields of the header, what changed, and the descriptor of new memory or -1.
        """
        if observation is None:
            return (flags, 0, reward), changes, -1
        frame, instruction = observation
        descriptor = -1
        if self._kind is None or frame.shape != self._kind.shape or frame.dtype != self._kind.dtype:
            self._kind = FrameKind(frame.shape, frame.dtype)
            changes = changes._replace(kind=self._kind)
            if self._memory is None or 2 * frame.nbytes > len(self._memory):
                size = -(-max(frame.nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
                descriptor, self._memory = _allocate(2 * size)
            self._frames = _slots(self._memory, self._kind)
        self._slot = 1 - self._slot
        self._frames[self._slot][...] = frame
        if instruction != self._instruction:
            self._instruction = instruction
            changes = changes._replace(instruction=instruction)
        return (flags | _FRAME, self._slot, reward), changes, descriptor


def _is_plain(observation: Any) -> bool:
    """Whether an observation is None or an array of numbers and a str: shared memory can hold it."""
    if observation is None:
        return True
    return (
        type(observation) is Observation
        and type(observation.frame) is np.ndarray
        and not observation.frame.dtype.hasobject
        and type(observation.instruction) is str
    )
