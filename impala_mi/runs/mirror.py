"""Mirror: a copy of a run's folder that outlives the machine, in any file system that fsspec knows."""

import contextlib
import functools
import queue
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path, PurePosixPath

import fsspec

from impala_mi.errors import UserError, shorten
from impala_mi.redaction import redact_own, redact_url
from impala_mi.runs.remote import lost_credentials, open_url

LAST = "meta.json"
"""File of a checkpoint that is copied last: a copy that has it is whole."""
CHECKPOINTS = "checkpoints"
CLOSE_S = 600.0
"""Seconds that the end of a run waits for the last copy."""
PROBE_S = 60.0
"""Seconds within which a file of a few bytes must be written before training."""
MAX_REASON = 300
"""Characters of a file system's error that messages repeat."""


class Mirror:
    """Mirror that copies a run's folder in the background and fetches it again.

    Args:
        url: URL of the folder that holds the copies, for example `s3://bucket/runs`.
        folder: folder of the run; its copy has the same name.

    Raises `UserError` if fsspec does not know the kind of the URL or lacks a package for it.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._remote, root = _opened(url)
        self._url, self._folder, self._root = url, folder, f"{root}/{folder.name}"
        self._made = set[str]()
        self._copied: dict[str, tuple[int, int]] = {}
        self._one_copy_at_a_time = threading.Lock()
        self._copying: Future[None] | None = None
        self.failures = 0
        """Number of copies in a row that failed, as far as `push` and `close` have told."""

    def newest(self) -> str | None:
        """Name of the newest whole checkpoint of the copy, or None; raises `UserError`."""
        try:
            names = self._names()
        except Exception as e:  # file systems raise anything
            raise _error(self._url, "cannot be read", e) from None
        return max((PurePosixPath(name).parent.name for name in names if _is_checkpoint(name)), default=None)

    def pull(self) -> None:
        """Fetch the folder, which must not exist, whole or not at all; raises `UserError`."""
        aside = self._folder.with_name(f".{self._folder.name}.pull")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            names = self._names()
            whole = {PurePosixPath(name).parent for name in names if _is_checkpoint(name)}
            for name in names:
                parent = PurePosixPath(name).parent
                if parent.parent.name == CHECKPOINTS and parent not in whole:
                    continue  # its copy was interrupted
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                self._remote.get_file(f"{self._root}/{name}", str(aside / name))
            aside.rename(self._folder)
        except Exception as e:
            shutil.rmtree(aside, ignore_errors=True)
            raise _error(self._url, "cannot be read", e) from None

    def push(self) -> str | None:
        """Start copying changed files unless a copy is in progress; returns why the last copy failed, if it did."""
        if self._copying is not None:
            if not self._copying.done():
                return None
            reason = self._outcome(self._copying.exception())
        else:
            reason = None
        self._copying = self._start()
        return reason

    def close(self) -> str | None:
        """Copy changed files and wait for it; returns why that failed, if it did."""
        try:
            return self._outcome(self._start().exception(timeout=CLOSE_S))
        except TimeoutError:
            self.failures += 1
            return f"it has not ended within {CLOSE_S:.0f} s"

    def _outcome(self, error: BaseException | None) -> str | None:
        """Reason of a copy's failure, which is counted, or None."""
        self.failures = 0 if error is None else self.failures + 1
        return _reason(self._url, error) if isinstance(error, Exception) else None

    def _start(self) -> Future[None]:
        """Copy in a thread of its own, after the copy in progress; one that hangs does not keep the process."""
        result = Future[None]()

        def run() -> None:
            with self._one_copy_at_a_time:
                try:
                    self._copy()
                except Exception as e:  # file systems raise anything
                    result.set_exception(e)
                else:
                    result.set_result(None)

        threading.Thread(target=run, name="mirror", daemon=True).start()
        return result

    def _copy(self) -> None:
        """Copy changed files, then those whose copies are gone, and remove copies of files that are gone.

        Copies of an earlier process are removed too: a checkpoint that was set aside must not count as the newest.
        """
        files = self._files()
        if not files:
            raise FileNotFoundError(f"{self._folder} has no files; its copy is left as it is")
        self._put(files, [name for name in files if self._copied.get(name) != files[name]])
        copies = set(self._names())
        self._put(files, files.keys() - copies)  # a bucket that was emptied, or made anew
        for name in _meta_last(copies - files.keys())[::-1]:  # a copy without meta.json is no checkpoint
            self._remote.rm_file(f"{self._root}/{name}")
            self._copied.pop(name, None)

    def _put(self, files: Mapping[str, tuple[int, int]], names: Iterable[str]) -> None:
        for name in _meta_last(names):
            try:
                self._make_folder(f"{self._root}/{name}".rpartition("/")[0])
                self._remote.put_file(str(self._folder / name), f"{self._root}/{name}")
            except FileNotFoundError:
                if (self._folder / name).exists():  # the copy's folder or bucket is gone, with all in it
                    self._copied.clear()
                    self._made.clear()
                    raise
                continue  # a checkpoint that was removed meanwhile
            self._copied[name] = files[name]

    def _names(self) -> list[str]:
        """Paths of the files of the copy, relative to it."""
        self._remote.invalidate_cache()
        if not self._remote.exists(self._root):
            return []
        prefix = len(self._remote._strip_protocol(self._root)) + 1
        return sorted(path[prefix:] for path in self._remote.find(self._root))

    def _make_folder(self, folder: str) -> None:
        """Make the folder of a file and those above it, but never a bucket, whose name may be misspelt."""
        if self._root.startswith("/"):  # paths in buckets start with the bucket's name
            self._remote.makedirs(folder, exist_ok=True)
            return
        path = PurePosixPath(folder)
        for part in reversed([path, *path.parents]):
            if str(part) not in self._made and part.is_relative_to(self._root):
                with contextlib.suppress(FileExistsError):
                    self._remote.mkdir(str(part), create_parents=False)
                self._made.add(str(part))

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and modification time of each file, without files that are being written."""
        files = {}
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder)
            if not any(part.startswith(".") for part in name.parts) and path.is_file():
                with contextlib.suppress(FileNotFoundError):  # a checkpoint that was removed meanwhile
                    stat = path.stat()
                    files[name.as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return files


@functools.cache
def check_mirror(url: str) -> None:
    """Raise `UserError` unless a file can be written to the URL's folder, which is made, and removed again.

    A bucket that does not exist is not made: its name may be misspelt. URLs that were found to be good are not
    tried again by this process.
    """
    remote, root = _opened(url)
    name = f"{root}/.impala-mi-{uuid.uuid4().hex}"

    def probe() -> None:
        if root.startswith("/"):  # paths in buckets start with the bucket's name
            remote.makedirs(root, exist_ok=True)
        remote.pipe_file(name, b"written before training")
        remote.rm_file(name)

    try:
        _within(PROBE_S, probe)
    except Exception as e:  # file systems raise anything
        raise _error(url, "cannot be written to", e) from None


def _within(seconds: float, call: Callable[[], None]) -> None:
    """Call a function that may hang; raises what it raises, or `TimeoutError`."""
    result = queue.SimpleQueue[Exception | None]()

    def run() -> None:
        try:
            call()
        except Exception as e:
            result.put(e)
        else:
            result.put(None)

    threading.Thread(target=run, name="mirror probe", daemon=True).start()
    try:
        error = result.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if error is not None:
        raise error


def _opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system of run.mirror and the path in it; raises `UserError`."""
    if "://" not in url:
        raise UserError(
            f"run.mirror={url!r}: write it as s3://bucket/folder, gs://bucket/folder, file:///folder, ..."
        )
    try:
        remote, root = open_url(url)
    except Exception as e:  # some file systems connect here, and raise anything
        raise _error(url, "cannot be opened", e) from None
    return remote, root.rstrip("/")


def _error(url: str, problem: str, error: Exception) -> UserError:
    return UserError(
        f"run.mirror={shorten(redact_url(url))!r}: {problem}: {_reason(url, error)}{lost_credentials(url)}"
    )


def _reason(url: str, error: Exception) -> str:
    """Kind and message of a file system's error, without secrets."""
    return shorten(redact_own(f"{type(error).__name__}: {error}", url), MAX_REASON)


def _meta_last(names: Iterable[str]) -> list[str]:
    """Names in the order in which files are copied: a copy of a checkpoint that has `LAST` is whole."""
    return sorted(names, key=lambda name: (name.endswith(LAST), name))


def _is_checkpoint(name: str) -> bool:
    """Whether a file of the copy shows that its checkpoint is whole."""
    path = PurePosixPath(name)
    return path.name == LAST and path.parent.parent.name == CHECKPOINTS and path.parent.name.isdigit()
