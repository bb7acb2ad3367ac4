"""Reading a run's folder in any state: settings, records, events, evaluations and checkpoints."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np

from impala_mi.errors import UserError, shorten
from impala_mi.paths import local_path
from impala_mi.yaml_text import parse_yaml

CONFIG, METRICS, EVENTS = "config.yaml", "metrics.jsonl", "events.jsonl"
MAX_RECORDS = 1000
"""Records that `read` takes from a log, evenly spread over it."""
MAX_WHOLE_BYTES = 8 * 2**20
"""Size up to which `read` reads a whole log."""
_TAIL_BYTES = 2**20
"""Bytes at the end of a longer log in which the last records are looked for."""
_KIND = re.compile(rb'"event": "([^"]+)"')
Record = dict[str, Any]


@dataclass(frozen=True)
class History:
    """Sample of a run's records, and what else its folder holds."""

    path: str
    name: str
    settings: dict[str, Any]
    """Configuration by dotted key; empty if it cannot be read."""
    records: list[Record]
    """Records of metrics.jsonl: all, or about `MAX_RECORDS` evenly spread over the file."""
    events: Counter[str]
    """Number of events of each kind."""
    newest: list[Record]
    """Last events, in order."""
    evaluations: list[Record]
    """Results in eval/, those of the latest checkpoint first."""
    written_at: float | None = None
    """Time of the last record in seconds since 1970, or None if it is unknown."""

    @property
    def last(self) -> Record:
        """Last record, or {} if there is none."""
        return self.records[-1] if self.records else {}

    @property
    def status(self) -> str:
        """Status: done, interrupted, failed, unfinished (the run continues or was killed), or empty."""
        ends = ("done", "interrupted", "failed", "started")
        kind = next((e["event"] for e in reversed(self.newest) if e["event"] in ends), None)
        return kind if kind in ends[:3] else "unfinished" if self.records or self.events else "empty"

    @property
    def levels(self) -> list[str]:
        """Names of the levels, in the order of the suite."""
        start, end = "level/", "/episodes"  # names may hold slashes
        return [k[len(start) : -len(end)] for k in self.last if k.startswith(start) and k.endswith(end)]

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Env frames and values of one metric."""
        points = [(r["env_frames"], r[key]) for r in self.records if key in r and "env_frames" in r]
        return [x for x, _ in points], [y for _, y in points]


def read(path: str) -> History:
    """Read a sample of a run, in time that does not grow with its length.

    Damaged and half-written lines and files are skipped. `path` is the run's folder, or a copy of it in any file
    system that fsspec knows (`s3://bucket/runs/a`). Raises `UserError` if there is no such folder or it is no run.
    """
    files, root = _locate(path)

    def opened(name: str) -> BinaryIO | None:
        return _opened(files, f"{root}/{name}")

    evaluations = sorted(files.glob(f"{root}/eval/*.json"), reverse=True)
    events, newest = _events(opened(EVENTS))
    return History(
        path, Path(root).name, dict(flat(_config(opened(CONFIG)))), _records(opened(METRICS)), events, newest,
        _evaluations(_opened(files, file) for file in evaluations), _written_at(files, f"{root}/{METRICS}"),
    )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """All metrics and events of a run."""

    metrics: dict[str, np.ndarray]
    """Columns [N] over the N records of metrics.jsonl in order, so that `pandas.DataFrame(run.metrics)` is a table:
    int64 if every record has a whole number, else float64 with NaN where a record lacks the metric."""
    events: list[Record]
    """Events in order, each with `time`, `event` (its kind) and details."""
    config: dict[str, Any]
    """Configuration as nested mappings; empty if it cannot be read."""
    checkpoints: list[str]
    """Names of the checkpoints, oldest first, for `load_agent(run, checkpoint)`."""


def read_run(run: str | os.PathLike[str]) -> Run:
    """Read a whole run.

    Damaged and half-written lines are skipped.

    Args:
        run: a run's folder, or a copy of one in any file system that fsspec knows (`s3://bucket/runs/a`).

    Raises:
        UserError: there is no such folder, or it is no run.
    """
    files, root = _locate(os.fspath(run))

    def lines(name: str, key: str) -> list[Record]:
        if (file := _opened(files, f"{root}/{name}")) is None:
            return []
        with file:
            return [record for record in _parsed(file.read().splitlines()) if key in record]

    checkpoints = [Path(path).parent.name for path in files.glob(f"{root}/checkpoints/*/meta.json")]
    return Run(
        _columns(lines(METRICS, "env_frames")),
        lines(EVENTS, "event"),
        _config(_opened(files, f"{root}/{CONFIG}")),
        sorted(name for name in checkpoints if name.isdigit()),
    )


def _columns(records: list[Record]) -> dict[str, np.ndarray]:
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
        files, root = fsspec.core.url_to_fs(path if "://" in path else str(local_path(path)))
        files.invalidate_cache(root)  # otherwise buckets list what they held when first read
        exists = files.isdir(root)
    except UserError:
        raise
    except Exception as e:  # file systems raise anything
        raise UserError(f"'{shorten(path)}' cannot be read: {shorten(str(e), 300)}") from None
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


def _written_at(files: fsspec.AbstractFileSystem, path: str) -> float | None:
    try:
        return float(files.modified(path).timestamp())
    except Exception:  # not every file system knows
        return None


def _parsed(lines: list[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:  # the line is incomplete or damaged
            continue
        if isinstance(value, dict):
            yield value


def _records(file: BinaryIO | None) -> list[Record]:
    if file is None:
        return []
    with file:
        size = file.seek(0, 2)
        file.seek(0)
        if size <= MAX_WHOLE_BYTES:
            lines = file.read().splitlines()
            while lines and not next(_parsed(lines[-1:]), None):  # the line is incomplete
                lines.pop()
            if len(lines) > MAX_RECORDS:
                spread = sorted({round(i * (len(lines) - 1) / (MAX_RECORDS - 1)) for i in range(MAX_RECORDS)})
                lines = [lines[i] for i in spread]
        else:
            lines = [file.readline()]
            for i in range(1, MAX_RECORDS):
                file.seek(size * i // MAX_RECORDS)
                file.readline()  # rest of a line
                lines.append(file.readline())
            file.seek(max(0, size - _TAIL_BYTES))
            lines += file.read().splitlines()[-2:]
    records: list[Record] = []
    for line in _parsed(lines):
        record = {k: v for k, v in line.items() if isinstance(v, int | float)}
        frames = record.get("env_frames")
        if frames is not None and (size <= MAX_WHOLE_BYTES or not records or frames > records[-1]["env_frames"]):
            records.append(record)
    return records


def _events(file: BinaryIO | None) -> tuple[Counter[str], list[Record]]:
    kinds, last = Counter[str](), list[bytes]()
    if file is None:
        return kinds, []
    with file:
        for line in file:
            if kind := _KIND.search(line):
                kinds[kind[1].decode(errors="replace")] += 1
                last.append(line)
                if len(last) > 200:
                    del last[:100]
    return kinds, [record for record in _parsed(last[-100:]) if "event" in record]


def _config(file: BinaryIO | None) -> dict[str, Any]:
    """Configuration as it is written, perhaps by another version; {} if it cannot be read."""
    if file is None:
        return {}
    with file:
        try:
            values = parse_yaml(file.read().decode(), "config.yaml")
        except (UserError, UnicodeDecodeError):
            return {}
    return values if isinstance(values, dict) else {}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings by dotted key."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _evaluations(files: Iterable[BinaryIO | None]) -> list[Record]:
    results: list[Record] = []
    for file in files:
        if file is not None:
            with file:
                results += _parsed([file.read().replace(b"\n", b" ")])
    return results
