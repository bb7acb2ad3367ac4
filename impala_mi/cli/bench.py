"""Command `impala-mi bench`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from impala_mi.cli.console import make_console, make_table
from impala_mi.cli.options import OVERRIDES, F, compose
from impala_mi.errors import UserError, printable

if TYPE_CHECKING:
    from impala_mi.bench.table import Row
    from impala_mi.config import Config
    from impala_mi.envs.base import Suite

TRAIN_S, TUNE_S = 30.0, 8.0
"""Seconds of each measurement by default: without and with --tune."""


def options(seconds: float | None) -> Callable[[F], F]:
    """Arguments and options of every benchmark."""
    duration = click.FloatRange(0.1, 86_400)
    return compose(
        click.argument("config", default="bench"),
        OVERRIDES,
        click.option(
            "--seconds", type=duration, default=seconds, show_default=True, help="Seconds of each measurement."
        ),
        click.option("--json", "json_file", type=click.Path(path_type=Path), help="File to write the table to."),
        click.option("--compare", type=click.Path(path_type=Path), help="JSON of an earlier run, for ratios."),
    )


@click.group(name="bench")
def command() -> None:
    """Measure the speed of training and of its parts. CONFIG is a file or a shipped configuration (`bench`).

    \b
        impala-mi bench train                                    health gathering in ViZDoom, end to end
        impala-mi bench train env.suite=noise env.levels=all     frames without cost
        impala-mi bench learner --json a.json                    then: --compare a.json

    The speed of a shared machine varies: compare ratios and CPU time per frame from one session.
    """


@command.command()
@options(seconds=3)
def envs(config: str, overrides: Sequence[str], **output: Any) -> None:
    """Measure steps per second of each level, with random actions.

    One environment plays at a time, or as many as an actor has of a level if games come in batches.
    """
    from impala_mi.bench import parts

    loaded, suite = _load_games(config, overrides)
    rows = _collect(parts.environment_rows(loaded, suite, output["seconds"]))
    _show("envs", ("level",), rows, "cpu us/step", output)


@command.command()
@options(seconds=1)
def inference(config: str, overrides: Sequence[str], **output: Any) -> None:
    """Measure frames per second of acting, by batch, threads and precision."""
    from impala_mi.bench import parts
    from impala_mi.host.threads import cores

    loaded, suite = _load(config, overrides)
    threads = sorted({1, min(cores(), 8)})
    rows = _collect(parts.inference_rows(loaded, suite.spaces, threads, output["seconds"]))
    _show("inference", ("torso", "head", "precision", "threads", "batch"), rows, "cpu us/frame", output)


@command.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@options(seconds=2)
def learner(config: str, overrides: Sequence[str], device: str, **output: Any) -> None:
    """Measure frames per second of updates by torso, head and precision; stages in wall microseconds per frame."""
    import torch

    from impala_mi.bench import parts
    from impala_mi.nn.precision import compute_with

    loaded, suite = _load(config, overrides)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: this PyTorch ({torch.__version__}) sees no GPU")
    compute_with(loaded.learner.num_threads or 1)
    rows = _collect(parts.update_rows(loaded, suite.spaces, torch.device(device), output["seconds"]))
    keys = ("torso", "head", "precision", "T", "B", "device")
    _show("learner", keys, rows, "cpu us/frame" if device == "cpu" else "frames/s", output)


@command.command()
@options(seconds=5)
def transport(config: str, overrides: Sequence[str], **output: Any) -> None:
    """Measure the transport of unrolls through the object store, and their join into a batch."""
    from impala_mi.bench.transport import measure_transport

    loaded, suite = _load(config, overrides)
    _show("transport", ("unrolls",), [measure_transport(loaded, suite, output["seconds"])], "ms/batch", output)


@command.command()
@click.option("--tune", is_flag=True, help="Try numbers of actors, environments and threads, and print the best.")
@options(seconds=None)
def train(config: str, overrides: Sequence[str], tune: bool, **output: Any) -> None:
    """Measure frames per second of training, CPU time by stage, memory, and the efficiency.

    The efficiency is the ratio of frames per second to the ideal: all cores do nothing but stepping, acting and
    updating, each of which is measured on all cores at once just before.
    """
    from impala_mi.bench.end_to_end import measure_training
    from impala_mi.bench.parts import cost_of_parts_on_all_cores
    from impala_mi.host.threads import cores

    loaded, suite = _load(config, overrides)
    if loaded.learner.num_gpus and not tune:
        raise UserError(
            f"learner.num_gpus={loaded.learner.num_gpus}: the efficiency applies to CPUs; measure a GPU's learner "
            "with `impala-mi bench learner --device cuda`"
        )
    output["seconds"] = output["seconds"] or (TUNE_S if tune else TRAIN_S)
    if tune:
        _tune(loaded, len(suite.levels), output)
        return
    parts = cost_of_parts_on_all_cores(loaded, cores(), output["seconds"] / 6)
    cost = measure_training(
        loaded, len(suite.levels), warmup=min(10.0, output["seconds"]), seconds=output["seconds"]
    )
    ideal = 1e6 * cores() / sum(parts.values())
    row = {
        "suite": suite.name, "actors": loaded.actors.number(len(suite.levels)), "envs": loaded.actors.envs,
        "frames/s": cost.fps, "cpu us/frame": cost.cpu_us, "cores": cost.fps * cost.cpu_us / 1e6, "ideal": ideal,
        "efficiency": cost.fps / ideal, "lag": cost.lag, "learner busy": cost.learner_busy,
        "actors busy": cost.actors_busy, "PSS MB": cost.memory_mb, "start s": cost.startup_s,
    }  # fmt: skip
    notes = [
        "parts alone, all cores busy, CPU us/frame: " + ", ".join(f"{k} {v:.0f}" for k, v in parts.items()),
        "training, CPU us/frame: " + ", ".join(f"{k} {v:.0f}" for k, v in sorted(cost.stages.items())),
    ]
    _show("train", ("suite", "actors", "envs"), [row], "frames/s", output, notes)


@command.command()
@click.option(
    "--actors", multiple=True, type=click.IntRange(min=1), default=(10, 100, 1000), show_default=True,
    help="Number of actors; may be given several times.",
)  # fmt: skip
@click.option(
    "--rate", type=click.FloatRange(min=0.01), default=20.0, show_default=True,
    help="Agent steps per second of each actor.",
)  # fmt: skip
@options(seconds=20)
def scale(config: str, overrides: Sequence[str], actors: Sequence[int], rate: float, **output: Any) -> None:
    """Measure transport alone: actors deliver unrolls of real size without playing, the learner does not compute.

    Shows the limits of the driver, the object store, batches and weights on this machine (docs/scaling.md).
    """
    from impala_mi.bench.scale import measure_scale

    loaded, suite = _load(config, overrides)
    rows = _collect(measure_scale(loaded, suite, count, rate, output["seconds"]) for count in actors)
    _show("scale", ("actors",), rows, "frames/s", output)


def _tune(config: "Config", levels: int, output: dict[str, Any]) -> None:
    from impala_mi.bench.tune import tune

    rows, best = [], None
    for candidate, cost in tune(config, levels, output["seconds"]):
        rows.append({
            "actors": candidate.actors, "envs": candidate.envs, "threads": candidate.threads, "frames/s": cost.fps,
            "cpu us/frame": cost.cpu_us, "learner busy": cost.learner_busy, "lag": cost.lag,
            "PSS MB": cost.memory_mb,
        })  # fmt: skip
        if best is None or cost.fps > best[1]:
            best = candidate, cost.fps
    _show("tune", ("actors", "envs", "threads"), rows, "frames/s", output)
    if best is not None:
        click.echo("best:\n" + best[0].yaml, nl=False)


def _load_games(config: str, overrides: Sequence[str]) -> "tuple[Config, Suite]":
    """Load a configuration and its suite for games alone, whose numbers need not suit a learner."""
    from impala_mi.bench.parts import GamesConfig
    from impala_mi.config import load_as
    from impala_mi.envs.suites import make_suite

    loaded = load_as(GamesConfig, *_named(config, overrides))
    suite = make_suite(loaded.env)
    suite.check()
    return loaded, suite


def _named(config: str, overrides: Sequence[str]) -> tuple[str, Sequence[str]]:
    """CONFIG and its overrides; `bench` if the first argument is an override."""
    return ("bench", (config, *overrides)) if "=" in config else (config, overrides)


def _load(config: str, overrides: Sequence[str]) -> "tuple[Config, Suite]":
    """Load a configuration and its suite; raises `UserError` if this machine cannot run it."""
    from impala_mi import config as configuration
    from impala_mi.training.preflight import check

    loaded = configuration.load(*_named(config, overrides))
    return loaded, check(loaded)


def _collect(rows: "Iterator[Row]") -> "list[Row]":
    """Collect rows and show the latest on a terminal."""
    console, collected = make_console(), []
    with console.status("measuring") as status:
        for row in rows:
            collected.append(row)
            status.update(Text(printable(" ".join(str(v) for v in row.values() if isinstance(v, str)))))
    return collected


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)


def _show(
    kind: str, keys: tuple[str, ...], rows: "Sequence[Row]", compared: str, output: dict[str, Any],
    notes: Sequence[str] = (),
) -> None:  # fmt: skip
    """Print the table, with ratios for --compare, and save it for --json."""
    from impala_mi.bench.table import BenchTable

    report = BenchTable(kind, keys, rows, compared, notes)
    if output["compare"] is not None:
        rows = report.compare(output["compare"])
    table = make_table(list(rows[0]), left=[title for title, value in rows[0].items() if isinstance(value, str)])
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = make_console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)
    if output["json_file"] is not None:
        report.save(output["json_file"])
