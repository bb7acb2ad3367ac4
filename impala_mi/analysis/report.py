"""One page on a set of runs: self-contained HTML, and the same tables as Markdown and JSON."""

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from impala_mi.analysis import charts
from impala_mi.analysis.compare import (
    Aggregate,
    Group,
    aggregate,
    common_levels,
    differing,
    groups,
    same_seed,
    scores,
    shown,
)
from impala_mi.runs.folder import write_atomically
from impala_mi.runs.history import History

PICTURES = 6 * 2**20
"""Bytes of all pictures and videos in a page."""
LONGEST_ERROR = 500
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
Table = list[dict[str, str]]


def write_report(runs: Sequence[History], title: str, out: Path) -> list[Path]:
    """report.html, report.md and report.json in the folder `out`, which must exist."""
    sets = groups(runs)
    source, known = scores(runs)
    levels = common_levels(known)
    found = {
        group.name: aggregate(np.array([[known[run.path][level] for level in levels] for run in mine]))
        for group in sets
        if levels and (mine := [run for run in group.runs if run.path in known])
    }
    counts = {group.name: sum(run.path in known for run in group.runs) for group in sets}
    tables = {
        "Runs": _runs(sets),
        "Scores over levels": [
            {"group": name, "runs": str(counts[name])} | {k: _shown(v) for k, v in some.items()}
            for name, some in found.items()
        ],
        "Settings that differ": _settings(sets),
        "Faults and events": _events(runs),
    }
    pictures, left_out = _pictures(runs)
    page = Environment(loader=PackageLoader("impala_mi.analysis"), autoescape=True, trim_blocks=True)
    html = page.get_template("report.html").render(
        title=title, written=time.strftime("%Y-%m-%d %H:%M"), groups=sets, runs=tables["Runs"],
        several=any(len(group.runs) > 1 for group in sets), aggregates=tables["Scores over levels"],
        settings=tables["Settings that differ"], events=tables["Faults and events"], failures=_failures(runs),
        charts=[(heading, text, Markup(_plain(figure))) for heading, text, figure in _charts(sets, source, known)],
        source=SOURCES[source], levels=len(levels), warnings=_warnings(sets),
        pictures=pictures, left_out=left_out, plotly=Markup(plotly.offline.get_plotlyjs()),
    )  # fmt: skip
    files = {
        "report.html": html,
        "report.md": _markdown(title, tables, _warnings(sets), _failures(runs)),
        "report.json": _json(sets, source, known, found),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    return [out / name for name in files]


def _plain(figure: Any) -> str:
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}
        )
    )


def _charts(sets: Sequence[Group], source: str, known: dict[str, dict[str, float]]) -> list[tuple[str, str, Any]]:
    levels = list(dict.fromkeys(level for group in sets for run in group.runs for level in run.levels))
    returns = [(level, f"level/{level}/return_mean") for level in levels]
    capped = charts.learning(sets, "score/capped_mean", "mean capped score")
    found = [
        ("Mean capped score", "Over each level's last episodes in training (figure 4 b, c of the paper).", capped),
        ("Score of each level", f"{SOURCES[source]} Mean and range of a group's runs.", charts.bars(sets, known)),
        ("Return of each level", "In training, neither scaled nor clipped.", charts.small(sets, returns)),
        ("Learner", "", charts.small(sets, LEARNER)),
        ("Throughput and lag", "Lag: updates from the weights that acted to those that learn.",
         charts.small(sets, TRAFFIC)),
    ]  # fmt: skip
    return [(heading, text, figure) for heading, text, figure in found if figure is not None]


# -- tables --------------------------------------------------------------------------------------


def _runs(sets: Sequence[Group]) -> Table:
    rows = []
    for group in sets:
        for run in group.runs:
            last = run.last
            row = {"run": run.name}
            if len(sets) > 1:
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
                    "restarts": str(run.events["actor_died"] + run.events["learner_died"]),
                }
            )
    return rows


def _speed(run: History) -> float | None:
    """Over the whole run."""
    seconds, frames = run.last.get("time_s"), run.last.get("env_frames")
    return frames / seconds if seconds and frames else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _shown(found: Aggregate) -> str:
    within = "" if found.interval is None else " [{:.1f}, {:.1f}]".format(*found.interval)
    return f"{found.value:.1f}{within}"


def _settings(sets: Sequence[Group]) -> Table:
    return [
        {"key": key} | {group.name: shown(group.runs[0].settings.get(key, "-")) for group in sets}
        for key in differing([group.runs[0] for group in sets])
    ]


def _events(runs: Sequence[History]) -> Table:
    kinds = sorted({kind for run in runs for kind in run.events} - {"started", "checkpoint", "done"})
    return [{"event": kind} | {run.path: str(run.events[kind]) for run in runs} for kind in kinds]


def _warnings(sets: Sequence[Group]) -> list[str]:
    return [
        f"{', '.join(names)} have the same settings and the same seed: if one is a copy or a continuation of "
        "another, leave it out, or intervals are too narrow."
        for group in sets
        for names in same_seed(group)
    ]


def _failures(runs: Sequence[History]) -> list[tuple[str, str]]:
    return [
        (run.name, str(event.get("error", ""))[:LONGEST_ERROR])
        for run in runs
        if run.status == "failed"
        for event in [next(e for e in reversed(run.newest) if e["event"] == "failed")]
    ]


# -- pictures ------------------------------------------------------------------------------------


def _pictures(runs: Sequence[History]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(caption, kind, base64) of each run's newest t-SNE and videos, and a line on what there was no room for."""
    found: list[tuple[str, str, str]] = []
    room, left_out = PICTURES, 0
    for run in runs:
        folder = Path(run.path).expanduser()
        for file in [*_newest(folder, "tsne/*.png"), *_newest(folder, "videos/*.mp4", "videos/*.gif")]:
            if (size := file.stat().st_size * 4 // 3) > room:
                left_out += 1
                continue
            room -= size
            data = base64.b64encode(file.read_bytes()).decode()
            found.append((f"{run.name}: {file.stem}", file.suffix.removeprefix("."), data))
    line = f"{left_out} pictures and videos are left out, to keep the page small: they are in the runs' folders."
    return found, [line] if left_out else []


def _newest(folder: Path, *patterns: str) -> list[Path]:
    """Those of the last checkpoint; names begin with it."""
    files = sorted((file for pattern in patterns for file in folder.glob(pattern)), key=lambda file: file.stem)
    newest = max((file.stem.split("-")[0] for file in files), default="")
    return [file for file in files if file.stem.split("-")[0] == newest]


# -- other forms ---------------------------------------------------------------------------------


def _markdown(
    title: str, tables: dict[str, Table], warnings: Sequence[str], failures: Sequence[tuple[str, str]]
) -> str:
    parts = [f"# {title}", *warnings, *(f"{run} failed: {error}" for run, error in failures)]
    for heading, rows in tables.items():
        if rows:
            columns = list(rows[0])
            lines = [columns, ["---"] * len(columns), *(list(row.values()) for row in rows)]
            escaped = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
            parts.append("\n".join([f"## {heading}", "", *escaped]))
    return "\n\n".join(parts) + "\n"


def _json(
    sets: Sequence[Group], source: str, known: dict[str, dict[str, float]], found: dict[str, dict[str, Aggregate]]
) -> str:
    rows = [
        {
            "group": group.name,
            "aggregates": {
                k: {"value": v.value, "interval": v.interval} for k, v in found.get(group.name, {}).items()
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
        for group in sets
    ]  # fmt: skip
    return json.dumps({"scores": source, "groups": rows}, indent=1) + "\n"
