"""Parser of a run's logs and evaluations: readable lines are returned, damaged ones are skipped and counted."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from impala_mi.runs.checkpoint_checks import is_finite

MAX_LINE_BYTES = 4 * 2**20
"""Longest line that is read."""
Record = dict[str, Any]


def parse_line(line: bytes | str) -> Record | None:
    """Mapping in a line, or None if it holds anything else."""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # incomplete, damaged, or nested without end
        return None
    return value if isinstance(value, dict) else None


def parse_record(line: bytes | str) -> Record | None:
    """Finite numbers in a line of metrics.jsonl; None if it has no env frames, or whole numbers over 64 bits."""
    values = parse_line(line)
    if values is None or not is_finite(values.get("env_frames")) or values["env_frames"] < 0:
        return None
    if any(isinstance(value, int) and abs(value) >= 2**63 for value in values.values()):
        return None
    return {name: value for name, value in values.items() if is_finite(value)}


def parse_event(line: bytes | str) -> Record | None:
    """Event in a line of events.jsonl, or None."""
    values = parse_line(line)
    return values if values is not None and isinstance(values.get("event"), str) else None


def parse_evaluation(text: bytes | str) -> Record | None:
    """Result of `impala-mi eval`, or None; its rows have a level, and a score that is a finite number or None."""
    values = parse_line(text)
    rows = None if values is None else values.get("levels")
    if values is None or not isinstance(rows, list):
        return None
    if not all(isinstance(row, dict) and isinstance(row.get("level"), str) for row in rows):
        return None
    if not all(row.get("score") is None or is_finite(row["score"]) for row in rows):
        return None
    return values


@dataclass
class Skipped:
    """Count of the lines and files of a run that could not be read."""

    count: int = 0

    def keep(self, parsed: Iterable[Record | None]) -> list[Record]:
        """Keep the values that could be parsed, and count the others."""
        kept = []
        for value in parsed:
            if value is None:
                self.count += 1
            else:
                kept.append(value)
        return kept
