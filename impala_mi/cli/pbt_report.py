"""Part of `impala-mi report` for populations."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from impala_mi.cli.console import list_written, make_console, make_table
from impala_mi.errors import TrainingError, UserError

if TYPE_CHECKING:
    from impala_mi.pbt.lineage import MemberHistory
    from impala_mi.runs.folder import RunFolder


def report(folder: "RunFolder", out: Path) -> None:
    """Write lineage, schedules and the best member of a population to the existing folder `out`.

    Replays the journal; raises `TrainingError` if a decision does not follow from its inputs.
    """
    from impala_mi.analysis.stats import mean_interval
    from impala_mi.envs.scores import has_references
    from impala_mi.envs.suites import make_suite
    from impala_mi.host.files import write_atomically
    from impala_mi.pbt import journal, pictures
    from impala_mi.pbt.lineage import member_histories
    from impala_mi.pbt.settings import PopulationConfig
    from impala_mi.runs import folder as run_folder

    config, lines = folder.config_as(PopulationConfig), journal.read(folder.path)
    histories, keys = member_histories(lines, folder.path), list(config.pbt.space)
    if not histories:
        raise UserError(f"{str(folder.path)!r}: has no members yet")
    ranked = not has_references(make_suite(config.env).levels)
    console, title = make_console(), folder.path.resolve().name
    summary = [
        _summary(population, members)
        for population in range(config.pbt.populations)
        if (members := {name: h for name, h in histories.items() if h.population == population})
    ]
    console.print(_table(title, summary))
    known = [row["fitness"] for row in summary if row["fitness"] is not None]
    if len(known) > 1 and not ranked:
        import numpy as np

        mean, half = mean_interval(np.array(known))
        console.print(
            f"best of each population: {mean:.1f} +- {half:.1f} (95 % interval, {len(known)} populations)"
        )
    wrong = journal.disagreements(lines)
    replayed = sum(line["event"] in ("born", "decision") for line in lines)
    console.print(f"journal: {replayed - len(wrong)} of {replayed} draws and decisions reproduced by a replay")
    pictures.draw(histories, keys, title, out / "lineage.png")
    pictures.page(histories, title, out / "lineage.html")
    pictures.draw_populations(histories, ranked, title, out / "populations.png")
    write_atomically(out / "report.json", json.dumps({"populations": summary}, indent=1) + "\n")
    list_written(
        console, [out / name for name in ("lineage.png", "lineage.html", "populations.png", "report.json")]
    )
    if wrong:
        first = wrong[0]
        raise TrainingError(
            f"{len(wrong)} draws or decisions in {run_folder.JOURNAL} do not follow from their inputs, the first: "
            f"{first['event']} of {first['member']} at {first['time']}"
        )


def _summary(population: int, histories: "dict[str, MemberHistory]") -> dict[str, Any]:
    """Entry of one population in report.json."""
    from impala_mi.pbt.lineage import ancestry
    from impala_mi.pbt.pictures import best

    winner = best(histories)
    fitness = [f for history in histories.values() if (f := history.last_fitness()) is not None]
    decisions = [generation for history in histories.values() for generation in history.generations[1:]]
    return {
        "population": population,
        "best": winner,
        "fitness": histories[winner].last_fitness(),
        "mean_fitness": sum(fitness) / len(fitness) if fitness else None,
        "copies": sum(generation.donor is not None for generation in decisions),
        "decisions": len(decisions),
        "ancestry": [stretch.member for stretch in ancestry(histories, winner)],
        "parameters": histories[winner].generations[-1].parameters,
    }


def _table(title: str, summary: list[dict[str, Any]]) -> Table:
    headings = ("population", "best member", "fitness", "mean fitness", "copies", "decisions", "descends from")
    table = make_table(headings, left=("best member", "descends from"), title=title, title_justify="left")
    for row in summary:
        cells = ["-" if row[k] is None else f"{row[k]:.1f}" for k in ("fitness", "mean_fitness")]
        counts = [str(row[k]) for k in ("copies", "decisions")]
        table.add_row(str(row["population"]), row["best"], *cells, *counts, " > ".join(row["ancestry"]))
    return table
