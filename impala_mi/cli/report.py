"""Command `impala-mi report`."""

from pathlib import Path

import click

from impala_mi.cli.console import check_writable, list_written, make_console
from impala_mi.errors import UserError
from impala_mi.paths import local_path


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the report.  [default: RUN/report; report for several runs]",
)
def command(runs: tuple[str, ...], out: Path | None) -> None:
    """Report on runs (folders) in one page: curves, scores, settings that differ, faults, pictures.

    Runs that differ only in their seed are drawn as one curve with a band. Writes report.html, .md and .json.
    Crashed, incomplete and current runs are accepted. RUN may be a copy, as of run.mirror.

    For a population, which is reported alone: lineage, schedules and the best member (lineage.html and .png,
    populations.png, report.json); its members (POPULATION/members/*) are runs like any other.
    """
    from impala_mi.analysis.report import write_report
    from impala_mi.runs import folder as run_folder
    from impala_mi.runs.history import read

    runs = tuple(run.removeprefix("file://") for run in runs)
    populations = [folder for run in runs if (folder := run_folder.local_population(run)) is not None]
    if populations and len(runs) > 1:
        raise UserError(
            f"{str(populations[0])!r} is a population, which is reported alone; its members are "
            f"{populations[0] / 'members'}/*"
        )
    unique = {run if "://" in run else str(local_path(run).resolve()): run for run in reversed(runs)}
    histories = [] if populations else [read(run) for run in reversed(unique.values())]
    if out is None:
        out = Path("report") if len(runs) > 1 or "://" in runs[0] else local_path(runs[0]) / "report"
    check_writable(out, "; name another folder with --out")
    if populations:
        from impala_mi.cli.pbt_report import report

        report(run_folder.RunFolder(populations[0]), out)
        return
    title = histories[0].name if len(histories) == 1 else f"{len(histories)} runs"
    console = make_console()
    with console.status("drawing"):
        files = write_report(histories, title, out)
    list_written(console, files)
