"""A run's folder, copied to where it outlives the machine: any file system that fsspec knows."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import fsspec

from impala_mi.errors import UserError

LAST = "meta.json"
"""Of a checkpoint's files: with it the others are there."""
CHECKPOINTS = "checkpoints"
CLOSE_S = 600.0


class Mirror:
    """Copies a run's folder in the background, and fetches it again.

    Args:
        url: of the folder that holds the copies, `s3://bucket/runs` for example.
        folder: of the run; its copy has its name.

    Raises `UserError` where fsspec does not know the URL's kind or lacks a package for it.
    """

    def __init__(self, url: str, folder: Path) -> None:
        try:
            if "://" not in url:
                raise ValueError("write it as s3://bucket/folder, gs://bucket/folder, file:///folder, ...")
            self._there, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as e:
            raise UserError(f"run.mirror={url!r}: {e}") from None
        self._url, self._folder, self._root = url, folder, f"{root.rstrip('/')}/{folder.name}"
        self._copied: dict[str, tuple[int, int]] = {}
        self._listed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._copying: Future[None] | None = None

    def newest(self) -> str | None:
        """Name of the newest checkpoint of the copy that is whole. Raises `UserError`."""
        try:
            names = self._names()
        except Exception as e:  # file systems raise anything
            raise self._unreadable(e) from None
        return max((PurePosixPath(name).parent.name for name in names if _is_checkpoint(name)), default=None)

    def pull(self) -> None:
        """Fetch the folder, which must not be there: whole or not at all. Raises `UserError`."""
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
                self._there.get_file(f"{self._root}/{name}", str(aside / name))
            aside.rename(self._folder)
        except Exception as e:
            shutil.rmtree(aside, ignore_errors=True)
            raise self._unreadable(e) from None

    def push(self) -> Exception | None:
        """Begin to copy what changed, unless that is under way; returns why the copy before failed, if it did."""
        if self._copying is not None and not self._copying.done():
            return None
        failed = self._copying.exception() if self._copying is not None else None
        self._copying = self._thread.submit(self._copy)
        return failed if isinstance(failed, Exception) else None

    def close(self) -> Exception | None:
        """Copy what changed and wait for it; returns why it failed, if it did."""
        last = self._thread.submit(self._copy)
        self._thread.shutdown(wait=False)
        try:
            failed = last.exception(timeout=CLOSE_S)
        except TimeoutError as e:
            return e
        return failed if isinstance(failed, Exception) else None

    def _copy(self) -> None:
        here = self._files()
        for name in sorted(here, key=lambda name: (name.endswith(LAST), name)):
            if self._copied.get(name) != here[name]:
                try:
                    self._there.makedirs(f"{self._root}/{PurePosixPath(name).parent}", exist_ok=True)
                    self._there.put_file(str(self._folder / name), f"{self._root}/{name}")
                except FileNotFoundError:
                    if (self._folder / name).exists():
                        raise
                    continue  # a checkpoint that was dropped meanwhile
                self._copied[name] = here[name]
        # Those of an earlier process too: a checkpoint that was set aside must not be taken for the newest.
        gone = self._copied.keys() - here.keys()
        if not self._listed:
            gone |= {name for name in self._names() if name not in here}
        for name in gone:
            self._there.rm_file(f"{self._root}/{name}")
            self._copied.pop(name, None)
        self._listed = True

    def _names(self) -> list[str]:
        """Files of the copy, relative to it."""
        if not self._there.exists(self._root):
            return []
        self._there.invalidate_cache()
        prefix = len(self._there._strip_protocol(self._root)) + 1
        return sorted(path[prefix:] for path in self._there.find(self._root))

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"run.mirror={self._url!r}: cannot be read: {type(error).__name__}: {error}")

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of each, without those that are being written."""
        found = {}
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder)
            if not any(part.startswith(".") for part in name.parts) and path.is_file():
                stat = path.stat()
                found[name.as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return found


def _is_checkpoint(name: str) -> bool:
    """Whether a file tells of a checkpoint that is whole."""
    path = PurePosixPath(name)
    return path.name == LAST and path.parent.parent.name == CHECKPOINTS and path.parent.name.isdigit()
