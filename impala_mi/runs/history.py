"""Reading a run's folder in any state: settings, records, events, evaluations and checkpoints."""

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
from fsspec.spec import AbstractBufferedFile

from impala_mi.errors import UserError, shorten
from impala_mi.paths import local_path
from impala_mi.redaction import redact, redact_own, redact_values
from impala_mi.runs.log_lines import (
    MAX_LINE_BYTES,
    Record,
    Skipped,
    parse_evaluation,
    parse_event,
    parse_line,
    parse_record,
)
from impala_mi.runs.remote import open_url
from impala_mi.yaml_text import MAX_BYTES, parse_yaml

CONFIG, METRICS, EVENTS = "config.yaml", "metrics.jsonl", "events.jsonl"
MAX_RECORDS = 1000
"""Records that `read` takes from a log, evenly spread over it."""
MAX_WHOLE_BYTES = 8 * 2**20
"""Size up to which `read` reads a whole log."""
_TAIL_BYTES = 2**20
"""Bytes at the end of a longer log in which the last records are looked for."""
_KIND = re.compile(rb'"event": "([^"]+)"')


@dataclass(frozen=True)
class History:
    """Sample of a run's records, and what else its folder holds."""

    path: str
    """Folder or URL, without its credentials."""
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
    skipped: int = 0
    """Lines of the logs and evaluations that are damaged and were skipped, of those that were looked at."""

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

    Damaged lines and files are skipped and counted; a last line that is half-written is only skipped. `path` is the
    run's folder, or a copy of it in any file system that fsspec knows (`s3://bucket/runs/a`). Raises `UserError` if
    there is no such folder or it is no run.
    """
    files, root = _locate(path)

    def opened(name: str) -> BinaryIO | None:
        return _opened(files, f"{root}/{name}")

    evaluations = sorted(files.glob(f"{root}/eval/*.json"), reverse=True)
    skipped = Skipped()
    events, newest = _events(opened(EVENTS), skipped)
    return History(
        redact(path) if "://" in path else path, Path(root).name, dict(flat(_config(opened(CONFIG)))),
        _records(opened(METRICS), skipped), events, newest,
        skipped.keep(_evaluation(_opened(files, file)) for file in evaluations),
        _written_at(files, f"{root}/{METRICS}"), skipped.count,
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
    skipped: int = 0
    """Lines of the logs that are damaged and were skipped."""


def read_run(run: str | os.PathLike[str]) -> Run:
    """Read a whole run.

    Damaged and half-written lines are skipped and counted.

    Args:
        run: a run's folder, or a copy of one in any file system that fsspec knows (`s3://bucket/runs/a`).

    Raises:
        UserError: there is no such folder, or it is no run.
    """
    files, root = _locate(os.fspath(run))

    skipped = Skipped()

    def lines(name: str, parse: Callable[[bytes], Record | None]) -> list[Record]:
        if (file := _opened(files, f"{root}/{name}")) is None:
            return []
        with file:
            return skipped.keep(map(parse, _whole_lines(file.read())))

    checkpoints = [Path(path).parent.name for path in files.glob(f"{root}/checkpoints/*/meta.json")]
    return Run(
        _columns(lines(METRICS, parse_record)),
        lines(EVENTS, parse_event),
        _config(_opened(files, f"{root}/{CONFIG}")),
        sorted(name for name in checkpoints if name.isdecimal()),
        skipped.count,
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
        files, root = open_url(path) if "://" in path else fsspec.core.url_to_fs(str(local_path(path)))
        files.invalidate_cache(root)  # otherwise buckets list what they held when first read
        exists = files.isdir(root)
    except UserError:
        raise
    except Exception as e:  # file systems raise anything
        raise UserError(f"'{shorten(path)}' cannot be read: {shorten(redact_own(str(e), path), 300)}") from None
    if not exists:
        raise UserError(f"no run {path!r}: there is no such folder")
    root = root.rstrip("/")
    if not any(files.exists(f"{root}/{name}") for name in (CONFIG, METRICS, EVENTS)):
        raise UserError(f"{path!r} is not a run: it has neither {CONFIG} nor {METRICS} nor {EVENTS}")
    return files, root


def _opened(files: fsspec.AbstractFileSystem, path: str) -> BinaryIO | None:
    """The file, or None if it cannot be read or is a pipe or a device, whose reading may never end."""
    try:
        if not files.isfile(path):
            return None
        file = files.open(path, "rb")
        # fsspec's files of buckets ignore the limit of readline(); a BufferedReader keeps it.
        return io.BufferedReader(file) if isinstance(file, AbstractBufferedFile) else file
    except Exception:  # file systems raise anything
        return None


def _written_at(files: fsspec.AbstractFileSystem, path: str) -> float | None:
    try:
        return float(files.modified(path).timestamp())
    except Exception:  # not every file system knows
        return None


def _whole_lines(content: bytes) -> list[bytes]:
    """Lines of a log, without a last one that is still being written."""
    *lines, rest = content.split(b"\n")
    return [*lines, rest] if parse_line(rest) else lines


def _next_line(file: BinaryIO) -> bytes:
    """Next line of a log; too long a line is cut to one that is still too long. Empty at the end of the file."""
    line = end = file.readline(MAX_LINE_BYTES + 1)
    while end and not end.endswith(b"\n"):
        end = file.readline(MAX_LINE_BYTES)
    return line + b"\n" if end and end is not line else line


def _records(file: BinaryIO | None, skipped: Skipped) -> list[Record]:
    if file is None:
        return []
    with file:
        size = file.seek(0, 2)
        if size <= MAX_WHOLE_BYTES:
            file.seek(0)
            records = skipped.keep(map(parse_record, _whole_lines(file.read())))
            if len(records) > MAX_RECORDS:
                spread = {round(i * (len(records) - 1) / (MAX_RECORDS - 1)) for i in range(MAX_RECORDS)}
                records = [records[i] for i in sorted(spread)]
            return records
        lines = _sample(file, size)
    records = []
    for record in skipped.keep(map(parse_record, lines)):
        if not records or record["env_frames"] > records[-1]["env_frames"]:
            records.append(record)
    return records


def _sample(file: BinaryIO, size: int) -> list[bytes]:
    """About `MAX_RECORDS` lines of a long log in order, each once: evenly spread ones, and the last two."""
    lines, end = dict[int, bytes](), 0
    for i in range(MAX_RECORDS):
        if (target := size * i // MAX_RECORDS) < end:
            continue  # in a line that was read
        file.seek(target)
        if i:
            _next_line(file)  # rest of a line
        at, line, end = file.tell(), _next_line(file), file.tell()
        if line.endswith(b"\n"):
            lines[at] = line
    start = max(0, size - _TAIL_BYTES)
    file.seek(start)
    tail = file.read(size - start)
    at = start + tail.find(b"\n") + 1  # after the rest of a line
    last = []
    for line in _whole_lines(tail[at - start :]):
        last.append((at, line))
        at += len(line) + 1
    lines |= dict(last[-2:])
    return [lines[at] for at in sorted(lines)]


def _events(file: BinaryIO | None, skipped: Skipped) -> tuple[Counter[str], list[Record]]:
    kinds, last, newest = Counter[str](), list[tuple[str, bytes]](), list[Record]()
    if file is None:
        return kinds, []
    with file:
        while line := _next_line(file):
            if not line.endswith(b"\n") and parse_event(line) is None:
                break  # it is still being written
            if len(line) <= MAX_LINE_BYTES and (kind := _KIND.search(line)):
                kinds[kind[1].decode(errors="replace")] += 1
                last.append((kind[1].decode(errors="replace"), line))
                if len(last) > 200:
                    del last[:100]
            else:
                skipped.count += 1
    for name, line in last[-100:]:
        if (event := parse_event(line)) is None:
            kinds[name] -= 1
            skipped.count += 1
        else:
            newest.append(event)
    return +kinds, newest


def _config(file: BinaryIO | None) -> dict[str, Any]:
    """Configuration as it is written, perhaps by another version; {} if it cannot be read."""
    if file is None:
        return {}
    with file:
        try:
            values = parse_yaml(file.read(MAX_BYTES + 1).decode(), "config.yaml")
        except (UserError, UnicodeDecodeError):
            return {}
    return redact_values(values) if isinstance(values, dict) else {}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings by dotted key."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _evaluation(file: BinaryIO | None) -> Record | None:
    if file is None:
        return None
    with file:
        return parse_evaluation(file.read(MAX_LINE_BYTES + 1))
