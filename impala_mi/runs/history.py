"""What a run's folder tells of it, however it ended: settings, records, events, evaluations, pictures."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

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
    try:
        there, root = fsspec.core.url_to_fs(str(Path(path).expanduser()) if "://" not in path else path)
        there.invalidate_cache(root)  # or buckets show what they held at the first look
        found = there.isdir(root)
    except Exception as e:  # file systems raise anything
        raise UserError(f"{path!r} cannot be read: {e}") from None
    if not found:
        raise UserError(f"no run {path!r}: there is no such folder")
    root = root.rstrip("/")
    if not any(there.exists(f"{root}/{name}") for name in (CONFIG, METRICS, EVENTS)):
        raise UserError(f"{path!r} is not a run: it has neither {CONFIG} nor {METRICS} nor {EVENTS}")

    def opened(name: str) -> BinaryIO | None:
        try:
            return there.open(f"{root}/{name}", "rb")
        except Exception:  # it is not there, or may not be read
            return None

    events, newest = _events(opened(EVENTS))
    return History(
        path, Path(root).name, _settings(opened(CONFIG)), _records(opened(METRICS)), events, newest,
        _evaluations(map(opened, _names(there, root))), _written_at(there, f"{root}/{METRICS}"),
    )  # fmt: skip


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
