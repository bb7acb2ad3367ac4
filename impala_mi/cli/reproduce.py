"""Command `impala-mi reproduce`."""

import contextlib
import importlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from impala_mi.cli.console import check_writable, list_written, make_console, make_table
from impala_mi.cli.options import OVERRIDES, F, compose
from impala_mi.errors import UserError
from impala_mi.paths import local_path

EXPERIMENTS = {
    "expressivity": "Figure 2: parameters that sums, gates and dot products need.",
    "regression": "Figure 3: affine functions and sines as many tasks of one network.",
    "neural-process": "Figure 5(a): decoders of a neural process on draws from a Gaussian process.",
    "language-model": "Table 1: an LSTM language model with multiplicative embeddings.",
    "multitask": "Figure 4(b, c): heads of the agent on one suite, by equal frames.",
    "interference": "Heads of the agent on tasks that contradict each other by a chosen degree.",
}


DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
    help="auto: a GPU if there is one.",
)  # fmt: skip


def _options(quick: str) -> Callable[[F], F]:
    """Options of every experiment.

    Args:
        quick: effect of --quick, for the help.
    """
    return compose(
        click.option("--quick", is_flag=True, help=quick),
        click.option(
            "--seed", type=click.IntRange(min=0, max=2**31 - 1000), default=1, show_default=True,
            help="Seed, the first if there are several.",
        ),
        click.option(
            "--out", type=click.Path(path_type=Path, file_okay=False),
            help="Folder of results.  [default: reproductions/EXPERIMENT, with --quick EXPERIMENT-quick]",
        ),
    )  # fmt: skip


def _device(name: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    return "cuda" if available and name != "cpu" else "cpu"


@contextlib.contextmanager
def _progress(name: str, console: Console) -> Iterator[Callable[[float, str], None]]:
    """Function that shows progress: a bar, or a line whenever the activity changes."""
    if not console.is_interactive:
        last = ""

        def line(share: float, activity: str) -> None:
            nonlocal last
            if activity != last:
                console.print(f"{name}: {activity}, {share:.0%}", soft_wrap=True, highlight=False, markup=False)
            last = activity

        yield line
        return

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%, passed"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    bar = Progress(*columns, console=console)

    def show(share: float, activity: str) -> None:
        if not bar.task_ids:
            bar.start()
            bar.add_task(name, total=1.0)
        bar.update(bar.task_ids[0], completed=share, description=f"{name}: {activity}")

    try:
        yield show
    finally:
        bar.stop()


def _run(name: str, out: Path | None, settings: dict[str, Any]) -> None:
    """Run an experiment, or the rest of it, and write its results."""
    from impala_mi.reproductions.study import Study
    from impala_mi.reproductions.study_report import format_cell, write_study_report

    quick = settings["quick"]
    folder = local_path(out or Path("reproductions") / (f"{name}-quick" if quick else name))
    command = shlex.join(["impala-mi", *sys.argv[1:]])
    console = make_console()
    with _progress(name, console) as on_progress:
        study = Study(name, folder, settings, on_progress)
        package = name.replace("-", "_")
        report = importlib.import_module(f"impala_mi.reproductions.{package}.{package}_study").run_study(study)
        on_progress(1.0, "done")
    for result in report.tables:
        console.print(f"\n{result.title}", style="bold", soft_wrap=True, highlight=False, markup=False)
        table = make_table(result.header, box=None, padding=(0, 2), pad_edge=False)
        for row in result.rows:
            table.add_row(*map(format_cell, row))
        console.print(table)
    conclusion = f"The paper: {report.claim}\nHere: {report.verdict}"
    console.print(conclusion, soft_wrap=True, highlight=False, markup=False)
    list_written(console, write_study_report(study, report, command))


@click.command("redraw", short_help="Make finished experiments' pages again from their results.json.")
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
def redraw(folders: tuple[Path, ...]) -> None:
    """Make results.md and the figures of finished experiments again, from results.json alone.

    Nothing is trained: verdicts and tables are computed anew from the data. FOLDER is that of a finished
    experiment, such as docs/reproductions/regression.
    """
    from impala_mi.reproductions.redraw import REPORTS
    from impala_mi.reproductions.study_report import read_page, write_page

    console = make_console()
    pages = [(folder, read_page(folder, REPORTS)) for folder in map(local_path, folders)]
    for folder, page in pages:
        list_written(console, write_page(check_writable(folder), page))


@click.group(short_help="Repeat an experiment of the paper.")
def command() -> None:
    """Repeat an experiment of the paper: tables and figures, and whether its claim held.

    Results go to reproductions/EXPERIMENT (results.md, results.json and pictures). Without --quick it follows the
    paper's protocol, for hours or days. The same command continues an interrupted experiment: it repeats at most a
    minute, or in multitask the time since the last checkpoint of the run.
    """


def _plain(name: str, quick: str) -> click.Command:
    @click.command(name, help=EXPERIMENTS[name], short_help=EXPERIMENTS[name])
    @_options(f"{quick} on two cores, instead of the paper's protocol.")
    @DEVICE
    def run(quick: bool, seed: int, device: str, out: Path | None) -> None:
        _run(name, out, {"quick": quick, "seed": seed, "device": _device(device)})

    return run


command.add_command(redraw)
for _name, _quick in (
    ("expressivity", "A quarter of an hour"),
    ("regression", "A quarter of an hour"),
    ("neural-process", "An hour"),
):
    command.add_command(_plain(_name, _quick))


@command.command("language-model", help=EXPERIMENTS["language-model"], short_help=EXPERIMENTS["language-model"])
@_options("Half an hour on two cores: small models of Python's own documentation.")
@DEVICE
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="Folder with wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens.",
)
@click.option(
    "--softmax", type=click.Choice(["exact", "adaptive"]), default="exact", show_default=True,
    help="adaptive: faster, but its output embeddings are not the input's.",
)  # fmt: skip
def language_model(
    quick: bool, seed: int, device: str, out: Path | None, corpus: Path | None, softmax: str
) -> None:
    """Run the experiment; EXPERIMENTS has the help."""
    folder = None if corpus is None else str(local_path(corpus).resolve())
    settings = {"quick": quick, "seed": seed, "device": _device(device), "corpus": folder, "softmax": softmax}
    _run("language-model", out, settings)


@command.command("interference", help=EXPERIMENTS["interference"], short_help=EXPERIMENTS["interference"])
@_options("One number of tasks and fewer frames: some three hours on one core.")
@click.option(
    "--seeds", type=click.IntRange(2, 1000), default=8, show_default=True,
    help="Runs of each head at each point; fixed for a folder.",
)  # fmt: skip
def interference(quick: bool, seed: int, out: Path | None, seeds: int) -> None:
    """Run the experiment; EXPERIMENTS has the help."""
    _run("interference", out, {"quick": quick, "seed": seed, "repetitions": seeds, "device": "cpu"})


@command.command(
    "multitask",
    short_help=EXPERIMENTS["multitask"],
    help=EXPERIMENTS["multitask"]
    + " CONFIG (doom; with --quick smoke) and KEY=VALUE are those of impala-mi train: "
    "learner.num_gpus=1 uses a GPU.",
)
@_options("A million frames a run of five Doom levels: an hour or two on two cores.")
@click.option("--seeds", type=click.IntRange(2, 1000), default=3, show_default=True, help="Runs of each head.")
@click.option(
    "--episodes",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Episodes per level.",
)
@click.argument("config", required=False)
@OVERRIDES
def multitask(
    quick: bool,
    seed: int,
    out: Path | None,
    seeds: int,
    episodes: int,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Run the experiment; EXPERIMENTS has the help."""
    from impala_mi.config import load
    from impala_mi.reproductions.multitask.multitask_study import QUICK_FRAMES, check_comparable

    if config is not None and "=" in config and not config.endswith(".yaml"):
        overrides, config = (config, *overrides), None
    frames = [f"train.env_frames={QUICK_FRAMES}"] if quick else []
    loaded = load(config or ("smoke" if quick else "doom"), ["train.max_time_s=null", *frames, *overrides])
    settings = {"quick": quick, "seed": seed, "seeds": seeds, "episodes": episodes}
    levels = check_comparable(loaded, overrides)
    _run("multitask", out, settings | {"levels": levels, "config": loaded.model_dump(mode="json")})
