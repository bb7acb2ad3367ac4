"""`impala-mi bench`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.table import Table

from impala_mi.cli.console import make_console
from impala_mi.errors import UserError

if TYPE_CHECKING:
    from impala_mi.bench.table import Row
    from impala_mi.config import Config
    from impala_mi.envs.base import Suite

TRAIN_S, TUNE_S = 30.0, 8.0
F = TypeVar("F", bound=Callable[..., Any])


def options(seconds: float | None) -> Callable[[F], F]:
    """What every benchmark takes."""

    def decorate(function: F) -> F:
        for decorator in (
            click.option("--compare", type=click.Path(path_type=Path), help="JSON of another time, for ratios."),
            click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to it."),
            click.option(
                "--seconds",
                type=click.FloatRange(min=0.1),
                default=seconds,
                show_default=True,
                help="Of each measurement.",
            ),
            click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
            click.argument("config", default="bench"),
        ):
            function = decorator(function)
        return function

    return decorate


@click.group(name="bench")
def command() -> None:
    """Measure where the time goes. CONFIG is a file or a shipped configuration, `bench` by default.

    \b
        impala-mi bench train                                    health gathering in ViZDoom, end to end
        impala-mi bench train env.suite=noise env.levels=all     frames that cost nothing
        impala-mi bench learner --json a.json                    and later: --compare a.json

    Machines are shared and their speed wanders: compare ratios, and CPU time a frame, of one sitting.
    """


@command.command()
@options(seconds=3)
def envs(config: str, overrides: Sequence[str], **output: Any) -> None:
    """Steps a second of each level, with random actions, one environment at a time."""
    from impala_mi.bench import parts

    loaded, suite = _load(config, overrides)
    rows = _progress(parts.environment_rows(loaded, suite, output["seconds"]))
    _show("envs", ("level",), rows, "cpu us/step", output)


@command.command()
@options(seconds=1)
def inference(config: str, overrides: Sequence[str], **output: Any) -> None:
    """Frames a second of acting, by batch, threads and precision."""
    from impala_mi.bench import parts
    from impala_mi.host.threads import cores

    loaded, suite = _load(config, overrides)
    threads = sorted({1, min(cores(), 8)})
    rows = _progress(parts.inference_rows(loaded, suite.spaces, threads, output["seconds"]))
    _show("inference", ("torso", "head", "precision", "threads", "batch"), rows, "cpu us/frame", output)


@command.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@options(seconds=2)
def learner(config: str, overrides: Sequence[str], device: str, **output: Any) -> None:
    """Frames a second of updates by torso, head and precision; stages in microseconds of wall time a frame."""
    import torch

    from impala_mi.bench import parts

    loaded, suite = _load(config, overrides)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: this PyTorch ({torch.__version__}) sees no GPU")
    torch.set_num_threads(loaded.learner.num_threads or 1)
    rows = _progress(parts.update_rows(loaded, suite.spaces, torch.device(device), output["seconds"]))
    keys = ("torso", "head", "precision", "T", "B", "device")
    _show("learner", keys, rows, "cpu us/frame" if device == "cpu" else "frames/s", output)


@command.command()
@options(seconds=5)
def transport(config: str, overrides: Sequence[str], **output: Any) -> None:
    """Unrolls from an actor to the learner through the object store, and their join into a batch."""
    from impala_mi.bench.transport import measure_transport

    loaded, suite = _load(config, overrides)
    _show("transport", ("unrolls",), [measure_transport(loaded, suite, output["seconds"])], "ms/batch", output)


@command.command()
@click.option("--tune", is_flag=True, help="Try numbers of actors, environments and threads, and print the best.")
@options(seconds=None)
def train(config: str, overrides: Sequence[str], tune: bool, **output: Any) -> None:
    """Frames a second of training, CPU time by stage, memory, and the efficiency.

    The efficiency is the frames a second over what the cores would do if they did nothing but the parts (stepping,
    acting, updating), each measured on all cores at once right before.
    """
    from impala_mi.bench.end_to_end import measure_training
    from impala_mi.bench.parts import cost_of_parts_on_all_cores
    from impala_mi.host.threads import cores

    loaded, suite = _load(config, overrides)
    if loaded.learner.num_gpus and not tune:
        raise UserError(
            f"learner.num_gpus={loaded.learner.num_gpus}: the efficiency is that of CPUs; measure a GPU's learner "
            "with `impala-mi bench learner --device cuda`"
        )
    output["seconds"] = output["seconds"] or (TUNE_S if tune else TRAIN_S)
    if tune:
        _tune(loaded, len(suite.levels), output)
        return
    parts = cost_of_parts_on_all_cores(loaded, cores(), output["seconds"] / 6)
    got = measure_training(loaded, len(suite.levels), warmup=10, seconds=output["seconds"])
    ideal = 1e6 * cores() / sum(parts.values())
    row = {
        "suite": suite.name, "actors": loaded.actors.number(len(suite.levels)), "envs": loaded.actors.envs,
        "frames/s": got.fps, "cpu us/frame": got.cpu_us, "cores": got.fps * got.cpu_us / 1e6, "ideal": ideal,
        "efficiency": got.fps / ideal, "lag": got.lag, "learner busy": got.learner_busy,
        "actors busy": got.actors_busy, "PSS MB": got.memory_mb, "start s": got.startup_s,
    }  # fmt: skip
    notes = [
        "parts alone, all cores busy, CPU us/frame: " + ", ".join(f"{k} {v:.0f}" for k, v in parts.items()),
        "training, CPU us/frame: " + ", ".join(f"{k} {v:.0f}" for k, v in sorted(got.stages.items())),
    ]
    _show("train", ("suite", "actors", "envs"), [row], "frames/s", output, notes)


@command.command()
@click.option(
    "--actors",
    multiple=True,
    type=click.IntRange(min=1),
    default=(10, 100, 1000),
    show_default=True,
    help="How many; may be given several times.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0.01),
    default=20.0,
    show_default=True,
    help="Agent steps that each plays in a second.",
)
@options(seconds=20)
def scale(config: str, overrides: Sequence[str], actors: Sequence[int], rate: float, **output: Any) -> None:
    """Actors that hand in unrolls of real size and play nothing, a learner that computes nothing: what is left.

    Shows how far the driver, the object store, the batches and the weights reach on this machine (docs/scaling.md).
    """
    from impala_mi.bench.scale import measure_scale

    loaded, suite = _load(config, overrides)
    rows = _progress(measure_scale(loaded, suite, count, rate, output["seconds"]) for count in actors)
    _show("scale", ("actors",), rows, "frames/s", output)


def _tune(config: "Config", levels: int, output: dict[str, Any]) -> None:
    from impala_mi.bench.tune import tune

    rows, best = [], None
    for candidate, got in tune(config, levels, output["seconds"]):
        rows.append({
            "actors": candidate.actors, "envs": candidate.envs, "threads": candidate.threads, "frames/s": got.fps,
            "cpu us/frame": got.cpu_us, "learner busy": got.learner_busy, "lag": got.lag, "PSS MB": got.memory_mb,
        })  # fmt: skip
        if best is None or got.fps > best[1]:
            best = candidate, got.fps
    _show("tune", ("actors", "envs", "threads"), rows, "frames/s", output)
    if best is not None:
        click.echo("best:\n" + best[0].yaml, nl=False)


def _load(config: str, overrides: Sequence[str]) -> "tuple[Config, Suite]":
    """The configuration and its suite, if this machine can run it; raises `UserError`."""
    from impala_mi import config as configuration
    from impala_mi.training.preflight import check

    if "=" in config:  # an override in the place of the configuration's name
        config, overrides = "bench", (config, *overrides)
    loaded = configuration.load(config, overrides)
    return loaded, check(loaded)


def _progress(rows: "Iterator[Row]") -> "list[Row]":
    """Collect rows, showing each as it comes on a terminal."""
    console, found = make_console(), []
    with console.status("measuring") as status:
        for row in rows:
            found.append(row)
            status.update(" ".join(str(v) for v in row.values() if isinstance(v, str)))
    return found


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)


def _show(
    kind: str,
    keys: tuple[str, ...],
    rows: "Sequence[Row]",
    compared: str,
    output: dict[str, Any],
    notes: Sequence[str] = (),
) -> None:
    """Print the table, and write and compare what was asked for."""
    from impala_mi.bench.table import BenchTable

    report = BenchTable(kind, keys, rows, compared, notes)
    shown = rows if output["compare"] is None else report.compare(output["compare"])
    table = Table()
    for title in shown[0]:
        table.add_column(title, justify="left" if isinstance(shown[0][title], str) else "right")
    for row in shown:
        table.add_row(*(_cell(value) for value in row.values()))
    console = make_console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)
    if output["json_file"] is not None:
        report.save(output["json_file"])
