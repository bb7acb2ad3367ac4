"""Runs of `impala-mi train` and `impala-mi eval`, in processes of their own."""

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
from impala_mi.runs.folder import write_atomically

POLL_S = 5.0
Told = Callable[[float], None]
"""Told the share of its own work that is done."""


def changed(config: Config, root: Path, name: str, seed: int, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """The configuration of one run."""
    values = config.model_dump(mode="json") | {"seed": seed}
    for section, some in ({"run": {"root": str(root), "name": name}} | dict(changes)).items():
        values[section] = values[section] | some
    return build(name, values)


def train(config: Config, episodes: int, told: Told) -> dict[str, float]:
    """Train one run, or go on with it, and score it: by level, 0 a random player, 100 the reference."""
    root, name = Path(config.run.root), str(config.run.name)
    root.mkdir(parents=True, exist_ok=True)
    file, log = root / f"{name}.yaml", root / f"{name}.log"
    write_atomically(file, to_yaml(config))
    _call(["train", str(file), "--resume", "auto"], log, lambda: told(_share(root / name, config)))
    _call(["eval", str(root / name), "--episodes", str(episodes)], log, lambda: None)
    last = max((root / name / "checkpoints").glob("[0-9]*")).name
    evaluation = json.loads((root / name / "eval" / f"{last}.json").read_text(encoding="utf-8"))
    return {row["level"]: row["score"] for row in evaluation["levels"]}


def _call(arguments: Sequence[str], log: Path, tell: Callable[[], None]) -> None:
    """A command of ours, in its own process; an interrupt is passed on and waited for: it writes a checkpoint."""
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "impala_mi", *arguments], stdout=out, stderr=out, start_new_session=True
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                tell()
        finally:
            if process.poll() is None:
                print("stopping: the run that is under way writes a checkpoint", file=sys.stderr)
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)  # unlike SIGINT, background jobs of a shell do not ignore it
                try:
                    process.wait()
                except KeyboardInterrupt:  # again: the command is told again, and ends at once
                    continue
    if process.returncode:
        raise TrainingError(f"impala-mi {' '.join(arguments)} ended with {process.returncode}: see {log}")


def _share(folder: Path, config: Config) -> float:
    """Of its frames that a run has done, as of its last record."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2**16))
            record = json.loads(file.read().splitlines()[-1])
        return float(min(1.0, record["env_frames"] / config.train.env_frames))
    except (OSError, ValueError, IndexError, KeyError):  # it has not begun, or is being written
        return 0.0
