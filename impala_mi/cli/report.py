"""`impala-mi report`."""

import tempfile
from pathlib import Path

import click

from impala_mi.cli.console import make_console
from impala_mi.errors import UserError


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for what is written.  [default: RUN/report; report, of several runs]",
)
def command(runs: tuple[str, ...], out: Path | None) -> None:
    """Report on runs (folders) in one page: curves, scores, settings that differ, faults, pictures.

    Runs that differ in their seed alone are drawn as one curve with a band. Writes report.html, .md and .json.
    Runs that crashed, are half-written or still train are taken as they are. RUN may be a copy, as of run.mirror.

    Of a population, alone: who descends from whom, the schedules, the best member (lineage.html and .png,
    populations.png, report.json); its members (POPULATION/members/*) are runs like any other.
    """
    from impala_mi.analysis.report import write_report
    from impala_mi.runs import folder as run_folder
    from impala_mi.runs.history import read

    runs = tuple(run.removeprefix("file://") for run in runs)
    folders = [Path(run).expanduser() for run in runs]
    populations = [folder for folder in folders if run_folder.is_population(folder)]
    if populations and len(runs) > 1:
        raise UserError(
            f"{str(populations[0])!r} is a population, which is reported alone; its members are "
            f"{populations[0] / 'members'}/*"
        )
    same = {run if "://" in run else str(Path(run).expanduser().resolve()): run for run in reversed(runs)}
    histories = [] if populations else [read(run) for run in reversed(same.values())]
    if out is None:
        out = Path("report") if len(runs) > 1 or "://" in runs[0] else folders[0] / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as e:
        raise UserError(
            f"{str(out)!r}: cannot be written to: {e.strerror}; name another folder with --out"
        ) from None
    if populations:
        from impala_mi.cli.pbt_report import report

        report(run_folder.RunFolder(populations[0]), out)
        return
    title = histories[0].name if len(histories) == 1 else f"{len(histories)} runs"
    console = make_console()
    with console.status("drawing"):
        files = write_report(histories, title, out)
    for file in files:
        console.print(f"wrote {file}", soft_wrap=True)
