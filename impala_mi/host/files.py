"""Files that are replaced in one step or grow by whole entries, and locks that one process holds."""

import contextlib
import errno
import fcntl
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Path of a temporary file that replaces `file` after the `with` block, or is removed if that raises."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield aside
        os.replace(aside, file)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def write_atomically(file: Path, content: str | bytes) -> None:
    """Replace the content of a file in one step; texts in UTF-8, what is none escaped. Raises `OSError`."""
    with replacing(file) as aside:
        aside.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def _open(file: Path, flags: int) -> int:
    """Descriptor of a regular file; raises `OSError` for a pipe or a device: waiting for them may never end."""
    descriptor = os.open(file, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "Not a regular file", str(file))


def missing_folders(folder: Path) -> list[Path]:
    """Folders that `folder.mkdir(parents=True)` would make, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_if_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty, in their order."""
    for folder in folders:
        with contextlib.suppress(OSError):  # it is gone, or something lies in it
            folder.rmdir()


def open_file(file: Path) -> IO[bytes]:
    """Open a regular file for reading; raises `OSError` for a pipe or a device, whose reading may never end."""
    return open(_open(file, os.O_RDONLY), "rb")


def append(file: Path, data: bytes) -> None:
    """Append to a file, which is created, or leave it as it was.

    Raises `OSError` if not all can be written, or the path is no regular file.
    """
    descriptor = _open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        before = os.fstat(descriptor)
        try:
            unwritten = memoryview(data)
            while unwritten:
                unwritten = unwritten[os.write(descriptor, unwritten) :]
        except OSError:
            os.ftruncate(descriptor, before.st_size)
            raise
    finally:
        os.close(descriptor)


class Log:
    """File that grows by entries, in order; those that a full disk refuses are kept, and written with the next.

    Args:
        file: path of the file.
        max_bytes: bytes of entries that are kept; beyond them the oldest are dropped.
    """

    def __init__(self, file: Path, max_bytes: int = 64 * 2**20) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0

    def append(self, entry: bytes) -> None:
        """Write the entries that are kept, and another; raises `OSError` and keeps them if that fails."""
        self._kept.append(entry)
        self._kept_bytes += len(entry)
        while self._kept_bytes > self._max_bytes:
            self._kept_bytes -= len(self._kept.popleft())
        self.flush()

    def flush(self) -> None:
        """Write the entries that are kept; raises `OSError`."""
        if self._kept:
            append(self._file, b"".join(self._kept))
            self._kept.clear()
            self._kept_bytes = 0

    def sync(self) -> None:
        """Write the entries that are kept and wait until the file is on the disk; raises `OSError`."""
        self.flush()
        if self._file.is_file():
            with open(self._file, "rb") as opened:
                os.fsync(opened.fileno())


def lock(file: Path) -> IO[str]:
    """Lock a file, which is created, until the returned file is closed or the process ends.

    Raises `BlockingIOError` if another process holds the lock, and other kinds of `OSError` if the file cannot be
    written.
    """
    opened = open(_open(file, os.O_RDWR | os.O_CREAT), "r+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        opened.close()
        raise
    return opened
