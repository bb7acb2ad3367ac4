"""Results of a study as JSON, Markdown and figures."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from impala_mi.errors import UserError
from impala_mi.host.files import write_atomically
from impala_mi.reproductions.study import Study, name_damage
from impala_mi.runs.folder import versions

Cell = str | int | float | None
RESULTS = "results.json"
DIGITS = 6
"""Significant digits of numbers in files of results."""


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
    """All that tables, figures and verdict are made of: plain containers and numbers."""


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
    parts = study.results.values()
    facts = {
        "command": command, "where": hardware(study.settings), **study.settings,
        "minutes": round(sum(part["seconds"] for part in parts) / 60, 1),
        "trained by": ", ".join(sorted({part.get("revision") or "a revision not known" for part in parts})),
        "versions": {k: v for k, v in versions().items() if k in ("python", "torch", "numpy", "impala-mi")},
    }  # fmt: skip
    return write_page(study.folder, StudyPage(study.name, facts, report))


@dataclass(frozen=True)
class StudyPage:
    """A report with what is known of its making."""

    name: str
    """Name of the experiment."""
    facts: Mapping[str, Any]
    """Command, machine, settings, minutes, revisions that trained and versions."""
    report: StudyReport

    @property
    def markdown(self) -> str:
        """The page's text."""
        report = self.report
        text = [f"# {self.name}", "", f"The paper: {report.claim}", "", f"Here: {report.verdict}", ""]
        for table in report.tables:
            text += [f"## {table.title}", "", "| " + " | ".join(table.header) + " |"]
            text += ["|" + "|".join(["---", *["--:"] * (len(table.header) - 1)]) + "|"]
            text += ["| " + " | ".join(map(format_cell, row)) + " |" for row in table.rows] + [""]
        text += [line for name in report.figures for line in (f"![{name}]({name}.png)", "")]
        text += ["## How", "", f"`{self.facts['command']}`", ""]
        text += [f"- {k}: {v}" for k, v in self.facts.items() if k != "command" and not isinstance(v, dict)]
        text += ["- versions: " + ", ".join(f"{k} {v}" for k, v in self.facts["versions"].items()), ""]
        return "\n".join(text)


_OF_THE_REPORT = ("name", "claim", "verdict", "tables", "data")
"""Keys of results.json that belong to the report; every other key is a fact."""


def write_page(folder: Path, page: StudyPage) -> list[Path]:
    """Write results.json, results.md and each figure (.png) into a folder; return the files."""
    report, files = page.report, []
    for name, figure in report.figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110)
    values = {
        "name": page.name, **page.facts, "claim": report.claim, "verdict": report.verdict,
        "tables": [{"title": t.title, "header": t.header, "rows": t.rows} for t in report.tables],
        "data": report.data,
    }  # fmt: skip
    files += [folder / "results.md", folder / RESULTS]
    write_atomically(files[-2], page.markdown)
    write_atomically(files[-1], json.dumps(as_stored(values), allow_nan=False) + "\n")
    return files


def read_page(folder: Path, reports: Mapping[str, Callable[[Mapping[str, Any]], StudyReport]]) -> StudyPage:
    """Make a page again from the data and facts in a folder's results.json; verdict and tables are computed anew.

    Args:
        folder: folder of a finished study.
        reports: makers of reports from data, by experiment.

    Raises:
        UserError: the file is missing, damaged, or of another experiment.
    """
    file = folder / RESULTS
    if not file.is_file():
        raise UserError(f"{str(folder)!r} has no {RESULTS}: no finished experiment is there")
    with name_damage(file, "run the experiment again"):
        values = json.loads(file.read_text(encoding="utf-8"))
        name, data = str(values["name"]), values["data"]
        facts = {key: value for key, value in values.items() if key not in _OF_THE_REPORT}
    if name not in reports:
        raise UserError(f"{str(file)!r} is of the experiment {name!r}; known are {', '.join(reports)}")
    with name_damage(file, "run the experiment again"):
        page = StudyPage(name, facts, reports[name](data))
        page.markdown  # noqa: B018 - facts that are missing are found here
    return page


def hardware(settings: Mapping[str, Any]) -> str:
    """Name of the GPU, or the number of GPUs and cores."""
    cores = f"{os.cpu_count()} cores"
    if "device" not in settings:  # a comparison of runs, whose configuration has the number of GPUs
        return f"{settings['config']['learner']['num_gpus']} GPUs, {cores}"
    return torch.cuda.get_device_name() if settings["device"] == "cuda" else f"CPU, {cores}"


def as_stored(value: Any) -> Any:
    """The value as results.json gives it back, so that a report made from it can be made again.

    Numbers have six significant digits, those that JSON does not have are None, sequences are lists and keys texts.
    """
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): as_stored(item) for key, item in value.items()}
    return [as_stored(item) for item in value] if isinstance(value, list | tuple) else value


def as_numbers(value: Any) -> Any:
    """Data of results.json with NaN for numbers that JSON does not have, which `as_stored` made None in lists."""
    if isinstance(value, Mapping):
        return {key: as_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [math.nan if item is None else as_numbers(item) for item in value]
    return value
