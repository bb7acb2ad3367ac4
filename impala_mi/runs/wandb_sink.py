"""Weights & Biases."""

from collections.abc import Mapping

import wandb
from PIL import Image

from impala_mi.redaction import redact_values
from impala_mi.runs.sinks import TERMINAL, Record, RunInfo, Sink
from impala_mi.runs.tensorboard_sink import contact_sheet
from impala_mi.types import RolloutPreview


class WandbSink(Sink):
    """A W&B run whose files lie in wandb/ of the run's folder; WANDB_MODE and WANDB_API_KEY are W&B's own.

    A resumed run continues under the id of the run's folder. W&B's step is the number of updates, so that records
    since the checkpoint are not shown twice.
    """

    def __init__(self, info: RunInfo) -> None:
        section = info.config.logging.wandb
        assert section is not None
        self._run = wandb.init(
            project=section.project,
            id=info.saved_id("wandb"),
            name=info.name,
            group=info.group,
            resume="allow",
            mode="offline" if section.offline else None,
            dir=str(info.folder),
            config=redact_values(info.config.model_dump(mode="json", exclude={"run", "logging"})),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                reinit="create_new",
                x_disable_meta=True,  # it holds the command line, which may hold credentials
            ),
        )
        self._run.define_metric("env_frames")
        self._run.define_metric("*", step_metric="env_frames")
        self._updates, self._end = 0, "failed"

    def write(self, record: Record) -> None:
        """See `Sink`."""
        self._updates = int(record.get("updates", 0))
        self._run.log(dict(record), step=self._updates)

    def preview(self, level: str, preview: RolloutPreview) -> None:
        """See `Sink`."""
        if preview.frames is not None:
            sheet = contact_sheet(preview.frames)
            picture = Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet)
            self._run.log({f"samples/{level}": wandb.Image(picture)}, step=self._updates)

    def event(self, kind: str, details: Mapping[str, object]) -> None:
        """Remember how the run ends."""
        if kind in TERMINAL:
            self._end = kind

    def hparams(self, values: Mapping[str, float | str], metric: str) -> None:
        """See `Sink`."""
        self._run.config.update({"hparams": dict(values)}, allow_val_change=True)

    def close(self) -> None:
        """End the W&B run; one that was interrupted or has failed gets exit code 1."""
        self._run.finish(exit_code=0 if self._end == "done" else 1)
        if wandb.run is None:  # the program has no run of its own; W&B's process must end before Ray's are killed
            wandb.teardown()
