"""Results of a study as JSON, Markdown and figures."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from impala_mi.host.files import write_atomically
from impala_mi.reproductions.study import Study
from impala_mi.runs.folder import versions

Cell = str | int | float | None


@dataclass(frozen=True)
class ResultTable:
    """One table of results; numbers are shown with four digits."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class StudyReport:
    """Results of a study, compared with the paper."""

    claim: str
    """The paper's claim in one sentence."""
    verdict: str
    """Whether the claim held, in one sentence with numbers."""
    tables: Sequence[ResultTable]
    figures: Mapping[str, Figure]
    """Figures by file name without suffix."""
    data: Mapping[str, Any]
    """Data behind the figures: plain containers and numbers."""


def format_cell(cell: Cell) -> str:
    """Text of a cell: numbers with four digits, a dash for None."""
    if cell is None:
        return "-"
    return f"{cell:,.4g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


def write_study_report(study: Study, report: StudyReport, command: str) -> list[Path]:
    """Write results.json, results.md and each figure (.png) into the study's folder.

    Args:
        study: finished study.
        report: its results.
        command: command line that repeats it.

    Returns:
        The files.
    """
    files = []
    for name, figure in report.figures.items():
        files.append(study.folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110)
    parts = study.results.values()
    facts = {
        "command": command, "where": hardware(study.settings), **study.settings,
        "minutes": round(sum(part["seconds"] for part in parts) / 60, 1),
        "trained by": ", ".join(sorted({part.get("revision") or "a revision not known" for part in parts})),
        "versions": {k: v for k, v in versions().items() if k in ("python", "torch", "numpy", "impala-mi", "git")},
    }  # fmt: skip
    text = [f"# {study.name}", "", f"The paper: {report.claim}", "", f"Here: {report.verdict}", ""]
    for table in report.tables:
        text += [f"## {table.title}", "", "| " + " | ".join(table.header) + " |"]
        text += ["|" + "|".join(["---", *["--:"] * (len(table.header) - 1)]) + "|"]
        text += ["| " + " | ".join(map(format_cell, row)) + " |" for row in table.rows] + [""]
    text += [line for name in report.figures for line in (f"![{name}]({name}.png)", "")]
    text += ["## How", "", f"`{command}`", ""]
    text += [f"- {k}: {v}" for k, v in facts.items() if k != "command" and not isinstance(v, dict)]
    text += ["- versions: " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()), ""]
    values = {
        "name": study.name, **facts, "claim": report.claim, "verdict": report.verdict,
        "tables": [{"title": t.title, "header": t.header, "rows": t.rows} for t in report.tables],
        "data": report.data,
    }  # fmt: skip
    files += [study.folder / "results.md", study.folder / "results.json"]
    write_atomically(files[-2], "\n".join(text))
    write_atomically(files[-1], json.dumps(_finite(values), allow_nan=False) + "\n")
    return files


def hardware(settings: Mapping[str, Any]) -> str:
    """Name of the GPU, or the number of GPUs and cores."""
    cores = f"{os.cpu_count()} cores"
    if "device" not in settings:  # a comparison of runs, whose configuration has the number of GPUs
        return f"{settings['config']['learner']['num_gpus']} GPUs, {cores}"
    return torch.cuda.get_device_name() if settings["device"] == "cuda" else f"CPU, {cores}"


def _finite(value: Any) -> Any:
    """The value with None in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
