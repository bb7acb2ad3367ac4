"""What a run's folder tells of it, however it ended: settings, records, events, evaluations, pictures."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np

from impala_mi.errors import UserError
from impala_mi.yaml_text import parse_yaml

CONFIG, METRICS, EVENTS = "config.yaml", "metrics.jsonl", "events.jsonl"
MOST = 1000
"""Records that are read of a log, evenly spread, however long it is."""
SMALL = 8 * 2**20
"""Bytes of a log that is read whole."""
_TAIL = 2**20
_KIND = re.compile(rb'"event": "([^"]+)"')
Record = dict[str, Any]


@dataclass(frozen=True)
class History:
    """One run."""

    path: str
    name: str
    settings: dict[str, Any]
    """By dotted key; empty where they cannot be read."""
    records: list[Record]
    """Of metrics.jsonl: all, or so many evenly spread over the file."""
    events: Counter[str]
    """How often each kind."""
    newest: list[Record]
    """The last events."""
    evaluations: list[Record]
    """Of eval/, the latest checkpoint's first."""
    written_at: float | None = None
    """When the last record was, in seconds since 1970; None where that is not known."""

    @property
    def last(self) -> Record:
        """The last record, {} where there is none."""
        return self.records[-1] if self.records else {}

    @property
    def status(self) -> str:
        """done, interrupted, failed, or unfinished: it runs, or was killed."""
        ends = ("done", "interrupted", "failed", "started")
        kind = next((e["event"] for e in reversed(self.newest) if e["event"] in ends), None)
        return kind if kind in ends[:3] else "unfinished" if self.records or self.events else "empty"

    @property
    def levels(self) -> list[str]:
        """In the order of the suite."""
        start, end = "level/", "/episodes"  # names may hold slashes
        return [k[len(start) : -len(end)] for k in self.last if k.startswith(start) and k.endswith(end)]

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Env frames and values of one metric."""
        points = [(r["env_frames"], r[key]) for r in self.records if key in r and "env_frames" in r]
        return [x for x, _ in points], [y for _, y in points]


def read(path: str) -> History:
    """A run's folder, or a copy of one in any file system that fsspec knows (`s3://bucket/runs/a`).

    Lines and files that are damaged or half-written are passed over. Raises `UserError` where there is no folder,
    or nothing of a run in it.
    """
    there, root = _locate(path)

    def opened(name: str) -> BinaryIO | None:
        return _opened(there, f"{root}/{name}")

    events, newest = _events(opened(EVENTS))
    return History(
        path, Path(root).name, _settings(opened(CONFIG)), _records(opened(METRICS)), events, newest,
        _evaluations(map(opened, _names(there, root))), _written_at(there, f"{root}/{METRICS}"),
    )  # fmt: skip


def read_run(run: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Metrics of a run as columns: `pandas.DataFrame(read_run("runs/a"))` is a table of them.

    Args:
        run: a run's folder, or a copy of one in any file system that fsspec knows (`s3://bucket/runs/a`).

    Returns:
        An array [N] for each metric of metrics.jsonl, over its N records in order: int64 if every record has a
        whole number, else float64 with NaN where a record lacks the metric. Damaged lines are skipped.

    Raises:
        UserError: there is no such folder, or nothing of a run in it.
    """
    files, root = _locate(os.fspath(run))
    file = _opened(files, f"{root}/{METRICS}")
    if file is None:
        return {}
    with file:
        records = [record for record in _parsed(file.read().splitlines()) if "env_frames" in record]
    names = {k: None for record in records for k, value in record.items() if isinstance(value, int | float)}
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        whole = all(isinstance(value, int) for value in values)
        columns[name] = np.array(
            [value if isinstance(value, int | float) else np.nan for value in values],
            np.int64 if whole else np.float64,
        )
    return columns


def _locate(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system of a run's folder and the folder's path in it; raises `UserError` if it is not a run."""
    try:
        files, root = fsspec.core.url_to_fs(str(Path(path).expanduser()) if "://" not in path else path)
        files.invalidate_cache(root)  # otherwise buckets list what they held when first read
        exists = files.isdir(root)
    except Exception as e:  # file systems raise anything
        raise UserError(f"{path!r} cannot be read: {e}") from None
    if not exists:
        raise UserError(f"no run {path!r}: there is no such folder")
    root = root.rstrip("/")
    if not any(files.exists(f"{root}/{name}") for name in (CONFIG, METRICS, EVENTS)):
        raise UserError(f"{path!r} is not a run: it has neither {CONFIG} nor {METRICS} nor {EVENTS}")
    return files, root


def _opened(files: fsspec.AbstractFileSystem, path: str) -> BinaryIO | None:
    """The file, or None if it cannot be read."""
    try:
        return files.open(path, "rb")
    except Exception:  # file systems raise anything
        return None


def _written_at(there: fsspec.AbstractFileSystem, file: str) -> float | None:
    try:
        return float(there.modified(file).timestamp())
    except Exception:  # not every file system knows
        return None


def _parsed(lines: list[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:  # its writing was cut off
            continue
        if isinstance(value, dict):
            yield value


def _records(file: BinaryIO | None) -> list[Record]:
    if file is None:
        return []
    with file:
        size = file.seek(0, 2)
        file.seek(0)
        if size <= SMALL:
            lines = file.read().splitlines()
            while lines and not next(_parsed(lines[-1:]), None):  # its writing was cut off
                lines.pop()
            if len(lines) > MOST:
                spread = sorted({round(i * (len(lines) - 1) / (MOST - 1)) for i in range(MOST)})
                lines = [lines[i] for i in spread]
        else:
            lines = [file.readline()]
            for i in range(1, MOST):
                file.seek(size * i // MOST)
                file.readline()  # the rest of one
                lines.append(file.readline())
            file.seek(max(0, size - _TAIL))
            lines += file.read().splitlines()[-2:]
    found: list[Record] = []
    for line in _parsed(lines):
        record = {k: v for k, v in line.items() if isinstance(v, int | float)}
        frames = record.get("env_frames")
        if frames is not None and (size <= SMALL or not found or frames > found[-1]["env_frames"]):
            found.append(record)
    return found


def _events(file: BinaryIO | None) -> tuple[Counter[str], list[Record]]:
    kinds, last = Counter[str](), list[bytes]()
    if file is None:
        return kinds, []
    with file:
        for line in file:
            if found := _KIND.search(line):
                kinds[found[1].decode(errors="replace")] += 1
                last.append(line)
                if len(last) > 200:
                    del last[:100]
    return kinds, [record for record in _parsed(last[-100:]) if "event" in record]


def _settings(file: BinaryIO | None) -> dict[str, Any]:
    """As they are written: they may be of another version."""
    if file is None:
        return {}
    with file:
        try:
            values = parse_yaml(file.read().decode(), "config.yaml")
        except (UserError, UnicodeDecodeError):
            return {}
    return dict(_flat(values, "")) if isinstance(values, dict) else {}


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def _names(there: fsspec.AbstractFileSystem, root: str) -> list[str]:
    """Of the evaluations, the newest first."""
    return [f"eval/{name.rpartition('/')[2]}" for name in sorted(there.glob(f"{root}/eval/*.json"), reverse=True)]


def _evaluations(files: Iterable[BinaryIO | None]) -> list[Record]:
    found: list[Record] = []
    for file in files:
        if file is not None:
            with file:
                found += _parsed([file.read().replace(b"\n", b" ")])
    return found
