"""Sinks: destinations of a run's records. A sink has `write(record)` and, if needed, other methods of `Sink`.

metrics.jsonl and TensorBoard are always written; they raise what a disk refuses, keep it, and write it with the
next record. The sinks of the section `logging` run in threads of their own, so that a slow server delays nothing;
one that fails is reported by an event and dropped. A sink of your own is a function that takes a `RunInfo` and
returns a `Sink`.
"""

import contextlib
import importlib.util
import json
import math
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from impala_mi.config import Config, LoggingConfig
from impala_mi.errors import UserError
from impala_mi.hooks import load_hook
from impala_mi.host.files import Log, append, write_atomically
from impala_mi.runs.folder import is_population
from impala_mi.runs.log_lines import parse_line, parse_record
from impala_mi.types import RolloutPreview

Record = Mapping[str, float]
MAX_WAITING = 1000
"""Calls that may wait for a slow sink before it counts as failed."""
CLOSE_S = 30.0
"""Seconds that the end of a run waits for all sinks of services and of the user to write what is left."""
TERMINAL = ("done", "interrupted", "failed")
"""Events that end a run; one that ends without any has failed."""


@dataclass(frozen=True)
class RunInfo:
    """The run whose records a sink gets."""

    folder: Path
    config: Config
    levels: Sequence[str] = ()
    """Names of the levels."""
    resumed_at: int | None = None
    """Env frames of the checkpoint that the run was resumed from; None for a new run."""

    @property
    def group(self) -> str | None:
        """Name of the population that the run is a member of, or None."""
        members = self.folder.absolute().parent
        is_member = members.name == "members" and is_population(members.parent)
        return members.parent.name if is_member else None

    @property
    def name(self) -> str:
        """Name of the run; that of a member starts with the population's."""
        name = self.folder.absolute().name
        return name if self.group is None else f"{self.group}-{name}"

    def saved_id(self, sink: str, make: Callable[[], str] | None = None) -> str:
        """Id of the run in a sink, kept in the run's folder so that a resumed run continues under it.

        Args:
            sink: name of the sink.
            make: makes the id of a new run; by default the run's name and a random suffix.
        """
        file = self.folder / "sinks.json"
        with _ids_lock:
            ids = (parse_line(file.read_bytes()) or {}) if file.is_file() else {}
            if sink not in ids:
                ids[sink] = f"{self.name}-{uuid.uuid4().hex[:8]}" if make is None else make()
                write_atomically(file, json.dumps(ids) + "\n")
            return str(ids[sink])


_ids_lock = threading.Lock()


class Sink:
    """Destination of records; subclasses override what they need."""

    def write(self, record: Record) -> None:
        """Write one record; its values are finite, and `env_frames` is the x-axis."""

    def preview(self, level: str, preview: RolloutPreview) -> None:
        """Show a recent rollout of a level."""

    def event(self, kind: str, details: Mapping[str, object]) -> None:
        """Show an event."""

    def hparams(self, values: Mapping[str, float | str], metric: str) -> None:
        """Show hyperparameters beside a metric."""

    def close(self) -> None:
        """Write what is left."""


class JsonLines(Sink):
    """metrics.jsonl: one record in a line. A resumed run drops the records that were lost with the weights."""

    def __init__(self, info: RunInfo) -> None:
        file = info.folder / "metrics.jsonl"
        if info.resumed_at is not None and file.exists():
            lines = file.read_bytes().split(b"\n") if file.is_file() else []
            kept = [line for line in lines if (r := parse_record(line)) and r["env_frames"] <= info.resumed_at]
            write_atomically(file, b"".join(line + b"\n" for line in kept))
        append(file, b"")  # raises at once if the file cannot be written
        self._log = Log(file)

    def write(self, record: Record) -> None:
        """See `Sink`; a record that cannot be written is kept, and written with the next."""
        self._log.append((json.dumps(dict(record)) + "\n").encode())

    def close(self) -> None:
        """See `Sink`."""
        self._log.sync()


class BackgroundSink(Sink):
    """Sink that is made and called in a thread of its own; a call raises the error of an earlier one.

    Args:
        make: makes the sink.
        name: name of the thread.
    """

    def __init__(self, make: Callable[[], Sink], name: str) -> None:
        self._make, self._calls = make, queue.Queue[Callable[[Sink], None] | None](MAX_WAITING)
        self._error: Exception | None = None
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            sink = self._make()
            while (call := self._calls.get()) is not None:
                call(sink)
            sink.close()
        except Exception as e:  # clients of services raise anything
            self._error = e

    def _put(self, call: Callable[[Sink], None] | None) -> None:
        if self._error is not None:
            raise self._error
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            raise TimeoutError(f"{MAX_WAITING} calls wait for it") from None

    def write(self, record: Record) -> None:
        """See `Sink`."""
        self._put(lambda sink: sink.write(record))

    def preview(self, level: str, preview: RolloutPreview) -> None:
        """See `Sink`."""
        self._put(lambda sink: sink.preview(level, preview))

    def event(self, kind: str, details: Mapping[str, object]) -> None:
        """See `Sink`."""
        self._put(lambda sink: sink.event(kind, details))

    def hparams(self, values: Mapping[str, float | str], metric: str) -> None:
        """See `Sink`."""
        self._put(lambda sink: sink.hparams(values, metric))

    def end(self) -> None:
        """Have the sink write what is left and close, within `CLOSE_S` seconds; raises its error."""
        if self._deadline is None:
            self._put(None)
            self._deadline = time.monotonic() + CLOSE_S

    def close(self) -> None:
        """Wait until `CLOSE_S` seconds after `end` for what is left; raises the sink's error."""
        self.end()
        assert self._deadline is not None
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            raise TimeoutError(f"it has not finished within {CLOSE_S:g} s")
        if self._error is not None:
            raise self._error


class Sinks(Sink):
    """Several sinks as one.

    Args:
        required: sinks whose errors are raised.
        optional: sinks by name that run in the background; one that raises is reported and dropped.
        on_failure: called with the name and the reason of a sink that is dropped.
    """

    def __init__(
        self,
        required: Sequence[Sink],
        optional: Mapping[str, BackgroundSink] | None = None,
        on_failure: Callable[[str, str], None] = lambda name, reason: None,
    ) -> None:
        self._required, self._optional, self._on_failure = required, dict(optional or {}), on_failure

    def _each(self, call: Callable[[Sink], None]) -> None:
        self._each_optional(call)
        with contextlib.ExitStack() as stack:  # one that raises does not keep the record from the others
            for sink in self._required:
                stack.callback(call, sink)

    def _each_optional(self, call: Callable[[BackgroundSink], None]) -> None:
        for name, sink in list(self._optional.items()):
            try:
                call(sink)
            except Exception as e:  # clients of services raise anything
                if self._optional.pop(name, None) is None:
                    continue  # dropped by the event of another failure
                self._on_failure(name, _without_credentials(f"{type(e).__name__}: {e}"))

    def write(self, record: Record) -> None:
        """Write the finite values of a record."""
        finite = {key: value for key, value in record.items() if math.isfinite(value)}
        self._each(lambda sink: sink.write(finite))

    def preview(self, level: str, preview: RolloutPreview) -> None:
        """See `Sink`."""
        self._each(lambda sink: sink.preview(level, preview))

    def event(self, kind: str, details: Mapping[str, object]) -> None:
        """See `Sink`."""
        self._each(lambda sink: sink.event(kind, details))

    def hparams(self, values: Mapping[str, float | str], metric: str) -> None:
        """See `Sink`."""
        self._each(lambda sink: sink.hparams(values, metric))

    def close_required(self) -> None:
        """Close the required sinks, and let the others write what is left meanwhile."""
        self._each_optional(lambda sink: sink.end())
        required, self._required = self._required, []
        with contextlib.ExitStack() as stack:  # one that raises does not keep the others open
            for sink in required:
                stack.callback(sink.close)

    def close(self) -> None:
        """Close all; optional sinks share one deadline, `CLOSE_S` seconds after the first was told to end."""
        self.close_required()
        self._each_optional(lambda sink: sink.close())


def _without_credentials(text: str) -> str:
    """First line of an error without the user and password of a URL."""
    return re.sub(r"//[^/@\s]+@", "//***@", (text.strip() or "no reason given").splitlines()[0])[:500]


def _wandb(info: RunInfo) -> Sink:
    from impala_mi.runs.wandb_sink import WandbSink

    return WandbSink(info)


def _mlflow(info: RunInfo) -> Sink:
    from impala_mi.runs.mlflow_sink import MlflowSink

    return MlflowSink(info)


SERVICES: dict[str, Callable[[RunInfo], Sink]] = {"wandb": _wandb, "mlflow": _mlflow}
"""Sinks that a key of the section `logging` switches on; each needs the package and the extra of its name."""


def check_sinks(config: LoggingConfig) -> None:
    """Raise `UserError` if the package of a sink is missing or a sink of the user cannot be imported."""
    for name in SERVICES:
        if getattr(config, name) is not None and importlib.util.find_spec(name) is None:
            raise UserError(f"logging.{name} needs: pip install 'impala-mi[{name}]'")
    for hook in config.sinks:
        if not callable(load_hook(hook, "logging.sinks")):
            raise UserError(f"logging.sinks={hook!r}: is no function that returns a Sink")


def local_sinks(info: RunInfo) -> list[Sink]:
    """metrics.jsonl and TensorBoard in the run's folder."""
    from impala_mi.runs.tensorboard_sink import TensorBoardSink  # slow to import

    return [JsonLines(info), TensorBoardSink(info)]


def make_sinks(info: RunInfo, on_failure: Callable[[str, str], None]) -> Sinks:
    """All sinks of a run."""
    logging = info.config.logging
    makers = {name: make for name, make in SERVICES.items() if getattr(logging, name) is not None}
    makers |= {hook: load_hook(hook, "logging.sinks") for hook in logging.sinks}
    optional = {name: BackgroundSink(partial(make, info), name) for name, make in makers.items()}
    return Sinks(local_sinks(info), optional, on_failure)
