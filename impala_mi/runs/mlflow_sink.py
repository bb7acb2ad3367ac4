"""MLflow."""

import os
import re
import time
from collections.abc import Mapping

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from impala_mi.redaction import redact_values
from impala_mi.runs.history import flat
from impala_mi.runs.sinks import TERMINAL, Record, RunInfo, Sink

MAX_PARAMS, MAX_METRICS = 100, 500
"""Parameters and metrics in one call: within MLflow's limits."""
STATUS = dict(zip(TERMINAL, ("FINISHED", "KILLED", "FAILED"), strict=True))
"""MLflow's status of a run after each terminal event."""


class MlflowSink(Sink):
    """MLflow run on a tracking server, or in mlflow/ of the run's folder if none is named.

    A resumed run continues the MLflow run whose id is kept in the folder. The step of a metric is its env frames.
    """

    def __init__(self, info: RunInfo) -> None:
        section = info.config.logging.mlflow
        assert section is not None
        folder = (info.folder.absolute() / "mlflow").as_uri()
        uri = section.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or folder
        if uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient(tracking_uri=uri)
        self._run_id = info.saved_id("mlflow", lambda: self._create(section.experiment, info))
        self._client.update_run(self._run_id, status="RUNNING")
        self._end = "failed"

    def _create(self, experiment: str, info: RunInfo) -> str:
        known = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if known is None else known.experiment_id
        tags = {} if info.group is None else {"group": info.group}
        run_id = str(self._client.create_run(number, run_name=info.name, tags=tags).info.run_id)
        settings = redact_values(info.config.model_dump(mode="json", exclude={"run", "logging"}))
        params = [Param(key, str(value)) for key, value in flat(settings)]
        for i in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(run_id, params=params[i : i + MAX_PARAMS])
        return run_id

    def write(self, record: Record) -> None:
        """See `Sink`."""
        now_ms, step = int(time.time() * 1000), int(record["env_frames"])
        metrics = [Metric(_name(key), float(value), now_ms, step) for key, value in record.items()]
        for i in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[i : i + MAX_METRICS])

    def event(self, kind: str, details: Mapping[str, object]) -> None:
        """Remember how the run ends."""
        if kind in TERMINAL:
            self._end = kind

    def close(self) -> None:
        """End the MLflow run with the status of its last terminal event."""
        self._client.set_terminated(self._run_id, status=STATUS[self._end])


def _name(key: str) -> str:
    """Name of a metric with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", key)
