"""TensorBoard."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from impala_mi.envs.scores import family
from impala_mi.host.files import Log
from impala_mi.runs.sinks import Record, RunInfo, Sink
from impala_mi.types import RolloutPreview

_SECOND = re.compile(r"tfevents\.(\d{10,12})\.")
"""Part of an event file's name: the second of its creation."""


class EventFile:
    """Event file that a writer of TensorBoard has started, written on without a thread; see `Log`.

    TensorBoard's own writer loses the events that a full disk refuses and damages the file.

    Args:
        file: path of the file.
    """

    def __init__(self, file: Path) -> None:
        self._log = Log(file)

    def add_event(self, event: Event) -> None:
        """Append an event; raises `OSError` and keeps it if that fails."""
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self._log.append(record.getvalue())

    def flush(self) -> None:
        """Write the events that are kept; raises `OSError`."""
        self._log.flush()

    def close(self) -> None:
        """Write the events that are kept; raises `OSError`."""
        self._log.flush()


def _named_last(file: Path) -> Path:
    """Rename an event file, if needed, so that its name is the last of its folder; returns its path.

    TensorBoard reads files in the order of their names, which start with the second of their creation: if the clock
    has gone back, a resumed run would come before the records that it continues.
    """
    seconds = [
        int(match[1]) for path in file.parent.iterdir() if path != file and (match := _SECOND.search(path.name))
    ]
    own = _SECOND.search(file.name)
    if own is None or not seconds or int(own[1]) > max(seconds):
        return file
    return file.rename(file.with_name(_SECOND.sub(f"tfevents.{max(seconds) + 1:010d}.", file.name, count=1)))


class TensorBoardSink(Sink):
    """Event file in tensorboard/ of the run's folder; env frames are the x-axis."""

    def __init__(self, info: RunInfo) -> None:
        purge = None if info.resumed_at is None else info.resumed_at + 1
        self._board = SummaryWriter(str(info.folder / "tensorboard"), purge_step=purge)
        writer = self._board._get_file_writer()
        started = writer.event_writer
        started.close()
        writer.event_writer = EventFile(_named_last(Path(started._file_name)))
        self._env_frames = info.resumed_at or 0
        if info.levels:
            self._board.add_custom_scalars(_charts(info.levels))

    def write(self, record: Record) -> None:
        """See `Sink`."""
        self._env_frames = int(record["env_frames"])
        # One event for all: a call of add_scalar for each takes five times as long.
        values = [
            Summary.Value(tag=key if "/" in key else f"run/{key}", simple_value=value)
            for key, value in record.items()
        ]
        self._board._get_file_writer().add_summary(Summary(value=values), self._env_frames)

    def preview(self, level: str, preview: RolloutPreview) -> None:
        """Show frames of a level, and histograms of the vectors that the head computes for them."""
        if preview.frames is not None:
            frames = contact_sheet(preview.frames)
            self._board.add_image(f"samples/{level}", frames, self._env_frames, dataformats="HWC")
        for kind, vectors in preview.vectors.items():
            if np.isfinite(vectors).all():
                self._board.add_histogram(f"agent/{kind}/{level}", vectors, self._env_frames)

    def event(self, kind: str, details: Mapping[str, object]) -> None:
        """Show an event as a text."""
        self._board.add_text(f"events/{kind}", json.dumps(details), self._env_frames)

    def hparams(self, values: Mapping[str, float | str], metric: str) -> None:
        """Add a row to the table of hyperparameters, with a scalar beside it."""
        for summary in hparams(dict(values), {metric: 0.0}):
            self._board._get_file_writer().add_summary(summary)

    def close(self) -> None:
        """See `Sink`."""
        self._board.close()


def _charts(levels: Sequence[str]) -> dict[str, dict[str, list[object]]]:
    """Layout of the custom scalars: charts of related metrics."""
    families = dict.fromkeys(family(level) for level in levels)
    by_family: dict[str, list[object]] = {
        f"{kind} {name}".strip(): ["Multiline", [rf"^level/(.*/)?{_level_pattern(name)}/{key}$"]]
        for name in (families if len(families) < len(levels) else [""])
        for kind, key in (("score", "score"), ("return", "return_mean"))
    }
    return {
        "scores": {"mean capped score": ["Multiline", ["score/capped_mean"]], **by_family},
        "learner": {
            "losses": ["Multiline", ["loss/policy", "loss/value"]],
            "entropy": ["Multiline", ["loss/entropy"]],
            "gradient": ["Multiline", ["learner/grad_norm"]],
        },
        "throughput": {
            "frames a second": ["Multiline", ["run/fps", "run/learner_fps"]],
            "seconds of an update": ["Multiline", ["time/(forward|backward|optimizer|stack|update)_s"]],
            "seconds of an unroll": ["Multiline", ["time/actor_.*"]],
        },
        "actors": {
            "alive and restarted": ["Multiline", ["actors/(alive|restarts|given_up)"]],
            "faults": ["Multiline", ["actors/faults"]],
        },
        "lag": {
            "of batches": ["Multiline", ["run/lag_(mean|max)"]],
            "of levels": ["Multiline", [r"level/.*/lag_mean"]],
        },
        "resources": {"of the driver's machine": ["Multiline", ["machine/.*"]]},
    }


def _level_pattern(name: str) -> str:
    """Pattern of the names of a family's levels, or of all levels if the name is empty."""
    return rf"{re.escape(name)}([_-][^/]*)?" if name else "[^/]*"


def contact_sheet(frames: np.ndarray) -> np.ndarray:
    """Picture of frames [N, h, w, c], four in a row."""
    rows = -(-len(frames) // 4)
    padded = np.concatenate([frames, np.zeros((4 * rows - len(frames), *frames.shape[1:]), frames.dtype)])
    _, h, w, c = padded.shape
    sheet = padded.reshape(rows, 4, h, w, c).swapaxes(1, 2).reshape(rows * h, 4 * w, c)
    return sheet if c == 3 else sheet[..., :1]
