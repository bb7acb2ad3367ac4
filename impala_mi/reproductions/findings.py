"""What a study found, as JSON, Markdown and figures."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from impala_mi.reproductions.study import Study
from impala_mi.runs.folder import versions, write_atomically

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """One table of results; numbers are shown in four digits."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Findings:
    """What a study found."""

    claim: str
    """The paper's, in one sentence."""
    verdict: str
    """Whether it held here, in one sentence with numbers."""
    tables: Sequence[Table]
    figures: Mapping[str, Figure]
    """By the name of their file, without suffix."""
    data: Mapping[str, Any]
    """What the figures were drawn from: plain containers and numbers."""


def shown(cell: Cell) -> str:
    """A cell's text: numbers in four digits, a dash for what is not known."""
    if cell is None:
        return "-"
    return f"{cell:,.4g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


def write(study: Study, found: Findings, command: str) -> list[Path]:
    """Write results.json, results.md and each figure (.png) into the study's folder; returns the files.

    Args:
        study: that was run.
        found: what it found.
        command: that repeats it.
    """
    files = []
    for name, figure in found.figures.items():
        files.append(study.folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110, bbox_inches="tight")
    parts = study.read.values()
    facts = {
        "command": command, "where": where(study.settings), **study.settings,
        "minutes": round(sum(part["seconds"] for part in parts) / 60, 1),
        "trained by": ", ".join(sorted({part.get("revision") or "a revision not known" for part in parts})),
        "versions": {k: v for k, v in versions().items() if k in ("python", "torch", "numpy", "impala-mi", "git")},
    }  # fmt: skip
    text = [f"# {study.name}", "", f"The paper: {found.claim}", "", f"Here: {found.verdict}", ""]
    for table in found.tables:
        text += [f"## {table.title}", "", "| " + " | ".join(table.header) + " |"]
        text += ["|" + "|".join(["---", *["--:"] * (len(table.header) - 1)]) + "|"]
        text += ["| " + " | ".join(map(shown, row)) + " |" for row in table.rows] + [""]
    text += [line for name in found.figures for line in (f"![{name}]({name}.png)", "")]
    text += ["## How", "", f"`{command}`", ""]
    text += [
        f"- {key}: {value}" for key, value in facts.items() if key != "command" and not isinstance(value, dict)
    ]
    text += ["- versions: " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()), ""]
    values = {
        "name": study.name, **facts, "claim": found.claim, "verdict": found.verdict,
        "tables": [{"title": t.title, "header": t.header, "rows": t.rows} for t in found.tables],
        "data": found.data,
    }  # fmt: skip
    files += [study.folder / "results.md", study.folder / "results.json"]
    write_atomically(files[-2], "\n".join(text))
    write_atomically(files[-1], json.dumps(_finite(values), allow_nan=False) + "\n")
    return files


def where(settings: Mapping[str, Any]) -> str:
    """The processors that were used."""
    cores = f"{os.cpu_count()} cores"
    if "device" not in settings:  # of runs, whose configurations tell
        return f"{settings['config']['learner']['num_gpus']} GPUs, {cores}"
    return torch.cuda.get_device_name() if settings["device"] == "cuda" else f"CPU, {cores}"


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
