"""A run's folder: config.yaml, versions.json, metrics.jsonl, events.jsonl, tensorboard/, checkpoints/ ..."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impala_mi.config import C, Config, build_as, to_yaml
from impala_mi.errors import UserError
from impala_mi.yaml_text import parse_yaml

SMALLEST_DISK = 500 * 2**20
JOURNAL = "pbt.jsonl"
"""Of a population: its decisions."""
PACKAGES = (
    "impala-mi",
    "torch",
    "ray",
    "gymnasium",
    "numpy",
    "tensorboard",
    "vizdoom",
    "minigrid",
    "deepmind-lab",
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Holds a folder for each checkpoint."""
        return self.path / "checkpoints"

    @property
    def config(self) -> Config:
        """As the run was started or last resumed; raises `UserError`."""
        return self.config_as(Config)

    def config_as(self, model: type[C], overrides: Sequence[str] = ()) -> C:
        """`config`, of a kind of configuration, with overrides."""
        file = self.path / "config.yaml"
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"{file}: cannot be read: {e}") from None
        return build_as(model, str(file), parse_yaml(text, str(file)), overrides)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that writes to it; raises `UserError` where another does, or nobody may."""
        try:
            file = open(self.path / ".lock", "w", encoding="utf-8")  # noqa: SIM115
        except OSError as e:
            raise UserError(f"{str(self.path)!r}: cannot be written to: {e.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"the run {str(self.path)!r} is being trained by another process") from None
            yield

    def event(self, kind: str, /, **details: Any) -> None:
        """Append to events.jsonl."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, **details}
        with open(self.path / "events.jsonl", "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    def save_config(self, config: Config) -> None:
        """Write config.yaml and versions.json, each whole or not at all."""
        self.write_config(config)
        write_atomically(self.path / "versions.json", json.dumps(versions(), indent=1) + "\n")

    def write_config(self, config: Config) -> None:
        """Write config.yaml, whole or not at all."""
        write_atomically(self.path / "config.yaml", to_yaml(config))


def write_atomically(file: Path, text: str) -> None:
    """Replace a file in one step."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)


def create(config: Config, name: str) -> RunFolder:
    """A new run's folder; raises `UserError` where it exists, cannot be written or the disk is full."""
    path = Path(config.run.root).expanduser() / name
    if path.exists():
        raise UserError(
            f"the run {str(path)!r} exists; continue it with: impala-mi resume {shlex.quote(str(path))}, "
            "or choose another run.name"
        )
    try:
        path.mkdir(parents=True)
        try:
            check_disk(path)
            folder = RunFolder(path)
            folder.save_config(config)
        except BaseException:  # a signal as well: the name stays free
            shutil.rmtree(path, ignore_errors=True)
            raise
    except OSError as e:
        raise UserError(
            f"run.root={config.run.root!r}: cannot make the folder {str(path)!r}: {e.strerror}"
        ) from None
    return folder


@contextlib.contextmanager
def new_run(config: Config, name: str) -> Iterator[RunFolder]:
    """Folder of a new run, locked inside the `with` block; raises what `create` raises.

    The folder is removed if a run is refused or interrupted before its first checkpoint, so the name stays free.
    """
    folder = create(config, name)
    try:
        with folder.locked():
            yield folder
    except (UserError, KeyboardInterrupt):
        if not folder.checkpoints.exists():
            shutil.rmtree(folder.path)
        raise


def check_disk(path: Path) -> None:
    """Raise `UserError` where the disk is nearly full."""
    free = shutil.disk_usage(path).free
    if free < SMALLEST_DISK:
        raise UserError(
            f"{str(path)!r}: only {free / 2**20:.0f} MiB of disk are free, {SMALLEST_DISK / 2**20:.0f} MiB are "
            "needed; free some or choose another run.root"
        )


def open_run(path: str) -> RunFolder:
    """An existing run's folder; raises `UserError`."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"no run {path!r}: there is no such folder")
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{path!r} is not a run: it has no config.yaml")
    if is_population(folder):
        members = sorted(str(p) for p in (folder / "members").glob("*"))
        raise UserError(f"{path!r} is a population; name one of its members: {', '.join(members) or 'none yet'}")
    return RunFolder(folder)


def is_population(folder: Path) -> bool:
    """Whether a folder is that of a population, not of one run."""
    return (folder / JOURNAL).is_file()


def versions() -> dict[str, str | None]:
    """Of Python, the packages that matter and the project's git revision, None where absent."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["git"] = revision()
    return found


def revision() -> str | None:
    """The project's git revision, None where it is not run from a checkout."""
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        tracked = subprocess.run(
            [*git[:3], "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
        done = subprocess.run(git, capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if tracked.returncode == done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        return None
