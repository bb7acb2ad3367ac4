"""`impala-mi report` of a population."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from impala_mi.cli.console import make_console
from impala_mi.errors import TrainingError, UserError

if TYPE_CHECKING:
    from impala_mi.pbt.lineage import Life
    from impala_mi.runs.folder import RunFolder


def report(folder: "RunFolder", out: Path) -> None:
    """Who descends from whom, the schedules, the best member; to the folder `out`, which must exist.

    Replays the journal; raises `TrainingError` where a decision is not what its inputs lead to.
    """
    from impala_mi.analysis.compare import interval
    from impala_mi.envs.scores import has_references
    from impala_mi.envs.suites import make_suite
    from impala_mi.pbt import journal, pictures
    from impala_mi.pbt.lineage import lives
    from impala_mi.pbt.settings import PopulationConfig
    from impala_mi.runs import folder as run_folder

    config, lines = folder.config_as(PopulationConfig), journal.read(folder.path)
    found, keys = lives(lines, folder.path), list(config.pbt.space)
    if not found:
        raise UserError(f"{str(folder.path)!r}: no member has been born yet")
    ranked = not has_references(make_suite(config.env).levels)
    console, title = make_console(), folder.path.resolve().name
    summary = [
        _summary(population, mine)
        for population in range(config.pbt.populations)
        if (mine := {name: life for name, life in found.items() if life.population == population})
    ]
    console.print(_table(title, summary))
    known = [row["fitness"] for row in summary if row["fitness"] is not None]
    if len(known) > 1 and not ranked:
        import numpy as np

        mean, half = interval(np.array(known))
        console.print(
            f"best of each population: {mean:.1f} +- {half:.1f} (95 % interval, {len(known)} populations)"
        )
    wrong = journal.disagreements(lines)
    replayed = sum(line["event"] in ("born", "decision") for line in lines)
    console.print(f"journal: {replayed - len(wrong)} of {replayed} births and decisions reproduced by a replay")
    pictures.draw(found, keys, title, out / "lineage.png")
    pictures.page(found, title, out / "lineage.html")
    pictures.draw_populations(found, ranked, title, out / "populations.png")
    run_folder.write_atomically(out / "report.json", json.dumps({"populations": summary}, indent=1) + "\n")
    for name in ("lineage.png", "lineage.html", "populations.png", "report.json"):
        console.print(f"wrote {out / name}", soft_wrap=True)
    if wrong:
        first = wrong[0]
        raise TrainingError(
            f"{len(wrong)} births or decisions of {run_folder.JOURNAL} do not follow from their inputs, the first: "
            f"{first['event']} of {first['member']} at {first['time']}"
        )


def _summary(population: int, lives: "dict[str, Life]") -> dict[str, Any]:
    """What report.json says of one population."""
    from impala_mi.pbt.lineage import ancestry
    from impala_mi.pbt.pictures import best

    winner = best(lives)
    fitness = [f for life in lives.values() if (f := life.last_fitness()) is not None]
    turns = [turn for life in lives.values() for turn in life.turns[1:]]
    return {
        "population": population,
        "best": winner,
        "fitness": lives[winner].last_fitness(),
        "mean_fitness": sum(fitness) / len(fitness) if fitness else None,
        "copies": sum(turn.donor is not None for turn in turns),
        "decisions": len(turns),
        "ancestry": [stretch.member for stretch in ancestry(lives, winner)],
        "parameters": lives[winner].turns[-1].parameters,
    }


def _table(title: str, summary: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    headings = ("population", "best member", "fitness", "mean fitness", "copies", "decisions", "descends from")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in headings[2:6] else "left")
    for row in summary:
        cells = ["-" if row[k] is None else f"{row[k]:.1f}" for k in ("fitness", "mean_fitness")]
        counts = [str(row[k]) for k in ("copies", "decisions")]
        table.add_row(str(row["population"]), row["best"], *cells, *counts, " > ".join(row["ancestry"]))
    return table
