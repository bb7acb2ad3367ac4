"""Report on a set of runs: a self-contained HTML page, and the same tables as Markdown and JSON."""

import base64
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from impala_mi.analysis import charts
from impala_mi.analysis.compare import (
    Aggregate,
    RunGroup,
    aggregate,
    common_levels,
    differing,
    format_setting,
    group_runs,
    same_seed,
    scores,
)
from impala_mi.analysis.pages import figure_html, render_page
from impala_mi.errors import printable
from impala_mi.host.files import open_file, write_atomically
from impala_mi.paths import local_path
from impala_mi.runs.history import History

MAX_PICTURE_BYTES = 6 * 2**20
"""Bytes of all pictures and videos in a page."""
MAX_ERROR_LENGTH = 500
"""Characters of an error in a page."""
LEARNER = [
    ("loss of the policy", "loss/policy"),
    ("loss of the value", "loss/value"),
    ("entropy", "loss/entropy"),
    ("norm of the gradient", "learner/grad_norm"),
    ("mean importance weight", "learner/rho_mean"),
    ("learning rate", "learner/learning_rate"),
]
TRAFFIC = [
    ("env frames a second", "fps"),
    ("mean lag", "lag_mean"),
    ("actors alive", "actors/alive"),
    ("actors' restarts", "actors/restarts"),
    ("faults of games", "actors/faults"),
    ("unrolls discarded", "actors/discarded_unrolls"),
]
SOURCES = {
    "evaluations": "From the newest evaluation of each run.",
    "training": "From the last episodes in training, as not every run has an evaluation of the same kind.",
}
Rows = list[dict[str, str]]
"""Rows of a table: texts by column."""


def write_report(runs: Sequence[History], title: str, out: Path) -> list[Path]:
    """Write report.html, report.md and report.json into the folder `out`, which must exist; return the files."""
    groups = group_runs(runs)
    source, known = scores(runs)
    levels = common_levels(known)
    aggregates = {
        group.name: aggregate(np.array([[known[run.path][level] for level in levels] for run in scored]))
        for group in groups
        if levels and (scored := [run for run in group.runs if run.path in known])
    }
    counts = {group.name: sum(run.path in known for run in group.runs) for group in groups}
    tables = {
        "Runs": _runs(groups),
        "Scores over levels": [
            {"group": name, "runs": str(counts[name])} | {k: _format_aggregate(v) for k, v in statistics.items()}
            for name, statistics in aggregates.items()
        ],
        "Settings that differ": _settings(groups),
        "Faults and events": _events(runs),
    }
    pictures, left_out = _pictures(runs)
    html = render_page(
        "report.html", title=title, written=time.strftime("%Y-%m-%d %H:%M"), groups=groups, runs=tables["Runs"],
        several=any(len(group.runs) > 1 for group in groups), aggregates=tables["Scores over levels"],
        settings=tables["Settings that differ"], events=tables["Faults and events"], failures=_failures(runs),
        charts=[(heading, text, _chart_html(figure)) for heading, text, figure in _charts(groups, source, known)],
        source=SOURCES[source], levels=len(levels), warnings=_warnings(groups),
        pictures=pictures, left_out=left_out,
    )  # fmt: skip
    files = {
        "report.html": html,
        "report.md": _markdown(title, tables, _warnings(groups), _failures(runs)),
        "report.json": _json(groups, source, known, aggregates),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    return [out / name for name in files]


def _chart_html(figure: Any) -> str:
    return figure_html(figure, config={"displayModeBar": False, "responsive": True})


def _charts(
    groups: Sequence[RunGroup], source: str, known: dict[str, dict[str, float]]
) -> list[tuple[str, str, Any]]:
    levels = list(dict.fromkeys(level for group in groups for run in group.runs for level in run.levels))
    returns = [(level, f"level/{level}/return_mean") for level in levels]
    capped = charts.learning_chart(groups, "score/capped_mean", "mean capped score")
    bars = charts.score_bars(groups, known)
    sections = [
        ("Mean capped score", "Over each level's last episodes in training (figure 4 b, c of the paper).", capped),
        ("Score of each level", f"{SOURCES[source]} Mean and range of a group's runs.", bars),
        ("Return of each level", "In training, neither scaled nor clipped.", charts.small_charts(groups, returns)),
        ("Learner", "", charts.small_charts(groups, LEARNER)),
        ("Throughput and lag", "Lag: updates from the weights that acted to those that learn.",
         charts.small_charts(groups, TRAFFIC)),
    ]  # fmt: skip
    return [(heading, text, figure) for heading, text, figure in sections if figure is not None]


def _runs(groups: Sequence[RunGroup]) -> Rows:
    rows = []
    for group in groups:
        for run in group.runs:
            last = run.last
            row = {"run": run.name}
            if len(groups) > 1:
                row["group"] = group.name
            rows.append(
                row
                | {
                    "seed": str(run.settings.get("seed", "-")),
                    "status": run.status,
                    "env frames": _number(last.get("env_frames"), ",.0f"),
                    "hours": _number(None if "time_s" not in last else last["time_s"] / 3600, ".2f"),
                    "frames/s": _number(_speed(run), ",.0f"),
                    "capped score": _number(last.get("score/capped_mean"), ".1f"),
                    "levels": str(len(run.levels) or "-"),
                    "faults": _number(last.get("actors/faults"), ",.0f"),
                    "skipped updates": _number(last.get("learner/skipped_updates"), ",.0f"),
                    "restarts": str(run.events["actor_died"] + run.events["learner_died"]),
                }
            )
    return rows


def _speed(run: History) -> float | None:
    """Env frames per second over the whole run."""
    seconds, frames = run.last.get("time_s"), run.last.get("env_frames")
    return frames / seconds if seconds and frames else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _format_aggregate(aggregate: Aggregate) -> str:
    interval = "" if aggregate.interval is None else " [{:.1f}, {:.1f}]".format(*aggregate.interval)
    return f"{aggregate.value:.1f}{interval}"


def _settings(groups: Sequence[RunGroup]) -> Rows:
    return [
        {"key": key} | {group.name: format_setting(group.runs[0].settings.get(key, "-")) for group in groups}
        for key in differing([group.runs[0] for group in groups])
    ]


def _events(runs: Sequence[History]) -> Rows:
    kinds = sorted({kind for run in runs for kind in run.events} - {"started", "checkpoint", "done"})
    return [{"event": kind} | {run.path: str(run.events[kind]) for run in runs} for kind in kinds]


def _warnings(groups: Sequence[RunGroup]) -> list[str]:
    skipped = [
        f"{run.name}: {run.skipped} damaged lines of its logs and evaluations are skipped."
        for group in groups
        for run in group.runs
        if run.skipped
    ]
    return skipped + [
        f"{', '.join(names)} have the same settings and the same seed: if one is a copy or a continuation of "
        "another, leave it out, or intervals are too narrow."
        for group in groups
        for names in same_seed(group)
    ]


def _failures(runs: Sequence[History]) -> list[tuple[str, str]]:
    return [
        (run.name, str(event.get("error", ""))[:MAX_ERROR_LENGTH])
        for run in runs
        if run.status == "failed"
        for event in [next(e for e in reversed(run.newest) if e["event"] == "failed")]
    ]


def _pictures(runs: Sequence[History]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(caption, kind, base64) of each run's newest t-SNE and videos, and a line on those that are left out."""
    pictures: list[tuple[str, str, str]] = []
    free, left_out = MAX_PICTURE_BYTES, 0
    for run in runs:
        folder = Path(run.path) if "://" in run.path else local_path(run.path)
        for file in [*_newest(folder, "tsne/*.png"), *_newest(folder, "videos/*.mp4", "videos/*.gif")]:
            try:
                with open_file(file) as opened:
                    if (size := os.fstat(opened.fileno()).st_size * 4 // 3) > free:
                        left_out += 1
                        continue
                    data = base64.b64encode(opened.read()).decode()
            except OSError:  # a link to nowhere, a pipe, or a file that this user may not read
                left_out += 1
                continue
            free -= size
            pictures.append((f"{run.name}: {file.stem}", file.suffix.removeprefix("."), data))
    line = f"{left_out} pictures and videos are left out, to keep the page small: they are in the runs' folders."
    return pictures, [line] if left_out else []


def _newest(folder: Path, *patterns: str) -> list[Path]:
    """Files of the last checkpoint, whose name is the start of theirs."""
    files = sorted((file for pattern in patterns for file in folder.glob(pattern)), key=lambda file: file.stem)
    newest = max((file.stem.split("-")[0] for file in files), default="")
    return [file for file in files if file.stem.split("-")[0] == newest]


def as_markdown(text: str) -> str:
    """Text for a line in which Markdown and HTML see no markup: no tags, links, cells or emphasis."""
    return re.sub(r"([\\`*\[\]<>&|~$!]|(?<!\w)_|_(?!\w))", r"\\\1", printable(text))


def _paragraph(text: str) -> str:
    """`as_markdown` for a line of its own, which is neither a heading nor an item of a list."""
    return re.sub(r"^(\s*)(\d*)(?=[#+=.)-])", r"\1\2\\", as_markdown(text))


def _markdown(
    title: str, tables: dict[str, Rows], warnings: Sequence[str], failures: Sequence[tuple[str, str]]
) -> str:
    texts = [*warnings, *(f"{run} failed: {error}" for run, error in failures)]
    parts = [f"# {as_markdown(title)}", *map(_paragraph, texts)]
    for heading, rows in tables.items():
        if rows:
            columns = list(rows[0])
            lines = [list(map(as_markdown, line)) for line in (columns, *(row.values() for row in rows))]
            lines.insert(1, ["---"] * len(columns))
            parts.append("\n".join([f"## {heading}", "", *("| " + " | ".join(line) + " |" for line in lines)]))
    return "\n\n".join(parts) + "\n"


def _json(
    groups: Sequence[RunGroup],
    source: str,
    known: dict[str, dict[str, float]],
    aggregates: dict[str, dict[str, Aggregate]],
) -> str:
    rows = [
        {
            "group": group.name,
            "aggregates": {
                k: {"value": v.value, "interval": v.interval} for k, v in aggregates.get(group.name, {}).items()
            },
            "runs": [
                {
                    "path": run.path, "status": run.status, "seed": run.settings.get("seed"),
                    "env_frames": run.last.get("env_frames"), "time_s": run.last.get("time_s"),
                    "frames_per_s": _speed(run), "capped_mean": run.last.get("score/capped_mean"),
                    "scores": known.get(run.path), "events": dict(run.events),
                }
                for run in group.runs
            ],
        }
        for group in groups
    ]  # fmt: skip
    return json.dumps({"scores": source, "groups": rows}, indent=1) + "\n"
