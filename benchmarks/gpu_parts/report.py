"""Results as one JSON file and one page of Markdown, both rewritten whenever a row arrives."""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]

KEY_COLUMNS = ("B", "T", "batch", "actors")
"""Columns of numbers that say what was measured; so do all columns of text."""
RATIO_COLUMNS = ("steps/s", "frames/s", "GB/s", "TFLOP/s", "ms/update", "ms", "host ms")
"""Columns of which `--compare` gives the ratio; the first one in a table counts."""

TARGETS = (
    ("H100 or H200, shallow, best batch", "at least 1,000,000 steps/s", "c", "speed",
     lambda row: row["torso"] == "shallow", "steps/s", lambda value: value >= 1e6),
    ("H100 or H200, shallow, B = 32", "at least 300,000 steps/s", "c", "speed",
     lambda row: row["torso"] == "shallow" and row["B"] == 32, "steps/s", lambda value: value >= 3e5),
    ("H100 or H200, deep, best batch", "at least 150,000 steps/s", "c", "speed",
     lambda row: row["torso"] == "deep", "steps/s", lambda value: value >= 1.5e5),
    ("loss within 1 % of float32 over 50 updates, worst variant", "at most 0.01", "g", "agreement",
     lambda row: True, "loss, relative", lambda value: value <= 0.01),
    ("host synchronisations in an update, worst case", "0", "f", "updates",
     lambda row: True, "synchronisations", lambda value: value == 0),
)  # fmt: skip
"""Targets: what, target, part, table, which rows, column, test. Speeds are judged by the best row, others by the
worst."""


class Report:
    """Results on disk. Only one process writes at a time: a part while it runs, the command between parts."""

    def __init__(self, out: Path) -> None:
        self.json_file, self.page_file = (out.with_name(out.name + end) for end in (".json", ".md"))
        self.data: dict[str, Any] = json.loads(self.json_file.read_text(encoding="utf-8"))

    @classmethod
    def create(cls, out: Path, compare: Path | None, keep: bool) -> "Report":
        """Start a report; with `keep`, parts of a report already at this place stay until they run again."""
        before = None
        if compare is not None:
            before = json.loads(compare.read_text(encoding="utf-8"))
            if "parts" not in before:
                raise ValueError(f"--compare {compare}: was not written by this command")
        file = out.with_name(out.name + ".json")
        parts = json.loads(file.read_text(encoding="utf-8"))["parts"] if keep and file.exists() else {}
        out.parent.mkdir(parents=True, exist_ok=True)
        data = {
            "when": time.strftime("%Y-%m-%d %H:%M"), "command": " ".join(["gpu.py", *sys.argv[1:]]),
            "python": platform.python_version(), "parts": parts, "before": before and before["parts"],
        }  # fmt: skip
        _write(file, json.dumps(data))
        return cls(out)

    def begin(self, name: str, limit_s: float) -> None:
        """Note that a part starts."""
        self.data["parts"][name] = {"status": "running", "limit_s": limit_s, "tables": {}, "notes": []}
        self._save()

    def finish(self, name: str, status: str, seconds: float, error: str | None = None) -> None:
        """Note that a part has ended."""
        self.data["parts"][name] |= {"status": status, "seconds": round(seconds, 1), "error": error}
        self._save()

    def set_gpu(self, name: str | None) -> None:
        """Note the name of the GPU, or None if there is none."""
        self.data["gpu"] = name
        self._save()

    def status(self, name: str) -> str:
        """Status of a part: running, done, skipped, failed or out of time."""
        return str(self.data["parts"].get(name, {}).get("status", "not run"))

    def add_row(self, name: str, table: str, row: Row) -> None:
        """Add a row to a table of a part."""
        self.data["parts"][name]["tables"].setdefault(table, []).append(row)
        self._save()

    def add_note(self, name: str, text: str) -> None:
        """Add a line of text to a part."""
        self.data["parts"][name]["notes"].append(text)
        self._save()

    def rows(self, name: str, table: str) -> list[Row]:
        """Rows of a table, empty if the part has none."""
        return list(self.data["parts"].get(name, {}).get("tables", {}).get(table, []))

    def targets(self) -> list[Row]:
        """Targets beside the measured values."""
        out = []
        for name, target, part, table, chosen, column, test in TARGETS:
            values = [r[column] for r in self.rows(part, table) if chosen(r) and r.get(column) is not None]
            value = max(values) if values else None  # the best speed, the worst error
            met = "not measured" if value is None else "yes" if test(value) else "no"
            if value is not None and self.data.get("gpu") is None:
                met = "no GPU"
            out.append({"target": name, "goal": target, "measured": value, "met": met})
        return out

    def part_text(self, name: str) -> str:
        """Section of a part, in Markdown."""
        from gpu_parts.part import PARTS

        part = self.data["parts"][name]
        seconds = f", {part['seconds']:.0f} s" if part.get("seconds") is not None else ""
        lines = [f"## {name}. {PARTS[name].title}: {part['status']}{seconds}", ""]
        for note in part["notes"]:
            lines += [note, ""]
        before = ((self.data["before"] or {}).get(name) or {}).get("tables", {})
        for table, rows in part["tables"].items():
            lines += [f"**{table}**", "", *_table(_compared(rows, before.get(table))), ""]
        if part.get("error"):
            lines += ["```", part["error"].rstrip(), "```", ""]
        return "\n".join(lines)

    def summary(self) -> str:
        """Table of the targets, in Markdown."""
        return "\n".join(_table(self.targets()))

    def _save(self) -> None:
        _write(self.json_file, json.dumps(self.data, indent=1))
        head = [
            f"# GPU report, {self.data['when']}",
            "",
            f"`{self.data['command']}`, Python {self.data['python']}",
            "",
        ]
        sections = [self.part_text(name) for name in sorted(self.data["parts"])]
        _write(self.page_file, "\n".join([*head, "## Targets", "", self.summary(), "", *sections]))


def _write(file: Path, text: str) -> None:
    """Replace a file as a whole."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple((k, v) for k, v in row.items() if k in KEY_COLUMNS or isinstance(v, str | bool))


def _compared(rows: list[Row], before: list[Row] | None) -> list[Row]:
    """Rows with the ratio to those of an earlier run."""
    column = next((c for c in RATIO_COLUMNS if any(c in row for row in rows)), None)
    if before is None or column is None:
        return rows
    old = {_key(row): row.get(column) for row in before}
    out = []
    for row in rows:
        value, earlier = row.get(column), old.get(_key(row))
        out.append({**row, f"{column}, new / old": value / earlier if value and earlier else None})
    return out


def _table(rows: list[Row]) -> list[str]:
    """Markdown table; the columns are all that any row has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numbers = [all(not isinstance(row.get(c), str | bool) for row in rows) for c in columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("--:" if n else "---" for n in numbers) + "|"]
    return [*lines, *("| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
