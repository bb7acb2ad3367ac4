"""Files that are replaced in one step, and locks that one process holds."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
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


def lock(file: Path) -> IO[str]:
    """Lock a file, which is created, until the returned file is closed or the process ends.

    Raises `BlockingIOError` if another process holds the lock, and other kinds of `OSError` if the file cannot be
    written.
    """
    opened = open(file, "w", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        opened.close()
        raise
    return opened
