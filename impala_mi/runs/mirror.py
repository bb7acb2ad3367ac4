"""Mirror: a copy of a run's folder that outlives the machine, in any file system that fsspec knows."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import fsspec

from impala_mi.errors import UserError

LAST = "meta.json"
"""File of a checkpoint that is copied last: a copy that has it is whole."""
CHECKPOINTS = "checkpoints"
CLOSE_S = 600.0
"""Seconds that the end of a run waits for the last copy."""


class Mirror:
    """Mirror that copies a run's folder in the background and fetches it again.

    Args:
        url: URL of the folder that holds the copies, for example `s3://bucket/runs`.
        folder: folder of the run; its copy has the same name.

    Raises `UserError` if fsspec does not know the kind of the URL or lacks a package for it.
    """

    def __init__(self, url: str, folder: Path) -> None:
        try:
            if "://" not in url:
                raise ValueError("write it as s3://bucket/folder, gs://bucket/folder, file:///folder, ...")
            self._remote, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as e:
            raise UserError(f"run.mirror={url!r}: {e}") from None
        self._url, self._folder, self._root = url, folder, f"{root.rstrip('/')}/{folder.name}"
        self._copied: dict[str, tuple[int, int]] = {}
        self._listed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._copying: Future[None] | None = None

    def newest(self) -> str | None:
        """Name of the newest whole checkpoint of the copy, or None; raises `UserError`."""
        try:
            names = self._names()
        except Exception as e:  # file systems raise anything
            raise self._unreadable(e) from None
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
            raise self._unreadable(e) from None

    def push(self) -> Exception | None:
        """Start copying changed files unless a copy is in progress; returns the error of the last copy, if any."""
        if self._copying is not None and not self._copying.done():
            return None
        failed = self._copying.exception() if self._copying is not None else None
        self._copying = self._thread.submit(self._copy)
        return failed if isinstance(failed, Exception) else None

    def close(self) -> Exception | None:
        """Copy changed files and wait for it; returns the error, if any."""
        last = self._thread.submit(self._copy)
        self._thread.shutdown(wait=False)
        try:
            failed = last.exception(timeout=CLOSE_S)
        except TimeoutError as e:
            return e
        return failed if isinstance(failed, Exception) else None

    def _copy(self) -> None:
        files = self._files()
        for name in sorted(files, key=lambda name: (name.endswith(LAST), name)):
            if self._copied.get(name) != files[name]:
                try:
                    self._remote.makedirs(f"{self._root}/{PurePosixPath(name).parent}", exist_ok=True)
                    self._remote.put_file(str(self._folder / name), f"{self._root}/{name}")
                except FileNotFoundError:
                    if (self._folder / name).exists():
                        raise
                    continue  # a checkpoint that was removed meanwhile
                self._copied[name] = files[name]
        # Copies of an earlier process too: a checkpoint that was set aside must not count as the newest.
        removed = self._copied.keys() - files.keys()
        if not self._listed:
            removed |= {name for name in self._names() if name not in files}
        for name in removed:
            self._remote.rm_file(f"{self._root}/{name}")
            self._copied.pop(name, None)
        self._listed = True

    def _names(self) -> list[str]:
        """Paths of the files of the copy, relative to it."""
        if not self._remote.exists(self._root):
            return []
        self._remote.invalidate_cache()
        prefix = len(self._remote._strip_protocol(self._root)) + 1
        return sorted(path[prefix:] for path in self._remote.find(self._root))

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"run.mirror={self._url!r}: cannot be read: {type(error).__name__}: {error}")

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and modification time of each file, without files that are being written."""
        files = {}
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder)
            if not any(part.startswith(".") for part in name.parts) and path.is_file():
                stat = path.stat()
                files[name.as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return files


def _is_checkpoint(name: str) -> bool:
    """Whether a file of the copy shows that its checkpoint is whole."""
    path = PurePosixPath(name)
    return path.name == LAST and path.parent.parent.name == CHECKPOINTS and path.parent.name.isdigit()
