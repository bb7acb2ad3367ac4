"""`impala-mi reproduce`."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from impala_mi.cli.console import make_console
from impala_mi.errors import UserError

EXPERIMENTS = {
    "expressivity": "Figure 2: parameters that sums, gates and dot products need.",
    "regression": "Figure 3: affine functions and sines as many tasks of one network.",
    "neural-process": "Figure 5(a): decoders of a neural process on draws from a Gaussian process.",
    "language-model": "Table 1: an LSTM with multiplicative embeddings on words.",
    "multitask": "Figure 4(b, c): heads of the agent on one suite, by equal frames.",
}


def _options(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: reproductions/NAME]"
        ),
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
            help="auto: a GPU where there is one.",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True),
        click.option("--quick", is_flag=True, help="Minutes on two cores, instead of the paper's whole protocol."),
    ):  # fmt: skip
        function = option(function)
    return function


def _run(
    name: str, quick: bool, seed: int, device: str, out: Path | None, options: Mapping[str, Any] | None = None
) -> None:
    """Run an experiment, or what is left of it, and write what it found."""
    import torch

    from impala_mi.experiments import findings
    from impala_mi.experiments.study import Study

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UserError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    settings = {"quick": quick, "seed": seed, "device": "cuda" if there and device != "cpu" else "cpu"}
    folder = out or Path("reproductions") / (f"{name}-quick" if quick else name)
    console = make_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=1.0)
        study = Study(
            name, folder, settings | dict(options or {}),
            lambda share, what: bar.update(task, completed=share, description=f"{name}: {what}"),
        )  # fmt: skip
        found = importlib.import_module(f"impala_mi.experiments.{name.replace('-', '_')}").run(study)
    for one in found.tables:
        table = Table(title=one.title, title_justify="left", box=None, padding=(0, 2), pad_edge=False)
        for number, heading in enumerate(one.header):
            table.add_column(heading, justify="right" if number else "left")
        for row in one.rows:
            table.add_row(*map(findings.shown, row))
        console.print(table)
    console.print(f"The paper: {found.claim}\nHere: {found.verdict}", soft_wrap=True, highlight=False, markup=False)
    command = "impala-mi reproduce " + " ".join(sys.argv[sys.argv.index(name) :])
    for file in findings.write(study, found, command):
        console.print(f"wrote {file}", soft_wrap=True)


@click.group(short_help="Repeat an experiment of the paper.")
def command() -> None:
    """Repeat an experiment of the paper: a table and a figure, and whether its claim held.

    The same command goes on where it was interrupted.
    """


def _plain(name: str) -> click.Command:
    @click.command(name, help=EXPERIMENTS[name])
    @_options
    def run(quick: bool, seed: int, device: str, out: Path | None) -> None:
        _run(name, quick, seed, device, out)

    return run


for _name in ("expressivity", "regression", "neural-process"):
    command.add_command(_plain(_name))


@command.command("language-model", help=EXPERIMENTS["language-model"])
@_options
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="Folder with wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens.",
)
def language_model(quick: bool, seed: int, device: str, out: Path | None, corpus: Path | None) -> None:
    """Not shown: EXPERIMENTS has the help."""
    _run(
        "language-model", quick, seed, device, out, {"corpus": None if corpus is None else str(corpus.expanduser())}
    )


@command.command("multitask", help=EXPERIMENTS["multitask"] + "\n\nCONFIG and KEY=VALUE as for impala-mi train.")
@_options
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True, help="Runs of each head.")
@click.option(
    "--episodes", type=click.IntRange(min=1), default=50, show_default=True, help="To score each level by."
)
@click.argument("config", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def multitask(
    quick: bool, seed: int, device: str, out: Path | None, seeds: int, episodes: int, config: str | None,
    overrides: tuple[str, ...],
) -> None:  # fmt: skip
    """Not shown: EXPERIMENTS has the help."""
    from impala_mi import preflight
    from impala_mi.config import load
    from impala_mi.envs.suites import make_suite
    from impala_mi.experiments.multitask import QUICK_FRAMES

    if config is not None and "=" in config and not config.endswith(".yaml"):
        overrides, config = (config, *overrides), None
    frames = [f"train.env_frames={QUICK_FRAMES}"] if quick else []
    loaded = load(config or ("smoke" if quick else "doom"), ["train.max_time_s=null", *frames, *overrides])
    if loaded.train.max_time_s is not None:
        raise UserError(
            f"train.max_time_s={loaded.train.max_time_s}: heads are compared by equal frames; set train.env_frames"
        )
    preflight.check(loaded)
    options = {
        "seeds": seeds, "episodes": episodes, "levels": make_suite(loaded.env).level_names,
        "config": loaded.model_dump(mode="json"),
    }  # fmt: skip
    _run("multitask", quick, seed, device, out, options)
