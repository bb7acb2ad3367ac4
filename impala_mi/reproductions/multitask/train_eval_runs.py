"""Runs of `impala-mi train` and `impala-mi eval` in their own processes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from impala_mi.config import Config, build, to_yaml
from impala_mi.errors import TrainingError
from impala_mi.host.files import write_atomically

POLL_S = 5.0
"""Seconds between looks at a running command."""
RunProgress = Callable[[float], None]
"""Callback that receives the share of a run that is done."""


def run_config(
    config: Config, root: Path, name: str, seed: int, changes: Mapping[str, Mapping[str, Any]]
) -> Config:
    """Configuration of one run: `changes` are settings by section."""
    values = config.model_dump(mode="json") | {"seed": seed}
    for section, settings in ({"run": {"root": str(root), "name": name}} | dict(changes)).items():
        values[section] = values[section] | settings
    return build(name, values)


def train_and_evaluate(config: Config, episodes: int, progress: RunProgress) -> dict[str, float]:
    """Train one run, or continue it, and return its normalised score by level."""
    root, name = Path(config.run.root), str(config.run.name)
    root.mkdir(parents=True, exist_ok=True)
    file, log = root / f"{name}.yaml", root / f"{name}.log"
    write_atomically(file, to_yaml(config))
    _call(["train", str(file), "--resume", "auto"], log, lambda: progress(_share(root / name, config)))
    _call(["eval", str(root / name), "--episodes", str(episodes)], log, lambda: None)
    last = max((root / name / "checkpoints").glob("[0-9]*")).name
    evaluation = json.loads((root / name / "eval" / f"{last}.json").read_text(encoding="utf-8"))
    return {row["level"]: row["score"] for row in evaluation["levels"]}


def _call(arguments: Sequence[str], log: Path, poll: Callable[[], None]) -> None:
    """Run an `impala-mi` command, calling `poll` meanwhile.

    An interrupt is passed on, and the command's end awaited: it writes a checkpoint first.
    """
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "impala_mi", *arguments], stdout=out, stderr=out, start_new_session=True
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                poll()
        finally:
            if process.poll() is None:
                print("stopping: the current run writes a checkpoint", file=sys.stderr)
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)  # unlike SIGINT, background jobs of a shell do not ignore it
                try:
                    process.wait()
                except KeyboardInterrupt:  # a second signal ends the command at once
                    continue
    if process.returncode:
        raise TrainingError(f"impala-mi {' '.join(arguments)} ended with {process.returncode}: see {log}")


def _share(folder: Path, config: Config) -> float:
    """Share of its frames that a run has done, from its last record."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2**16))
            record = json.loads(file.read().splitlines()[-1])
        return float(min(1.0, record["env_frames"] / config.train.env_frames))
    except (OSError, ValueError, IndexError, KeyError):  # the run has no record yet, or is writing it
        return 0.0
