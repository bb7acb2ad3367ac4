"""A run's folder: config.yaml, versions.json, metrics.jsonl, events.jsonl, tensorboard/, checkpoints/ ..."""

import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impala_mi.config import C, Config, build_as, to_yaml
from impala_mi.config_text import read_config
from impala_mi.errors import StartError, UserError
from impala_mi.host.files import append, lock, write_atomically
from impala_mi.paths import local_path
from impala_mi.yaml_text import parse_yaml

MIN_DISK_BYTES = 500 * 2**20
"""Free disk space that a run needs to start."""
MAX_STEM = 200
"""Characters of a configuration's name that the name of its run keeps."""
JOURNAL = "pbt.jsonl"
"""Journal of decisions in the folder of a population."""
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
"""Packages whose versions go into versions.json."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder that holds a folder for each checkpoint."""
        return self.path / "checkpoints"

    @property
    def events(self) -> Path:
        """File of events."""
        return self.path / "events.jsonl"

    @property
    def config(self) -> Config:
        """Configuration with which the run was started or last resumed; raises `UserError`."""
        return self.config_as(Config)

    def config_as(self, model: type[C], overrides: Sequence[str] = ()) -> C:
        """Configuration of another kind than `Config`, with overrides; raises `UserError`."""
        file = self.path / "config.yaml"
        return build_as(model, str(file), parse_yaml(read_config(file), str(file)), overrides)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock, so that no other process writes to the folder; raises `UserError` if that fails."""
        try:
            file = lock(self.path / ".lock")
        except BlockingIOError:
            raise UserError(f"the run {str(self.path)!r} is being trained by another process") from None
        except OSError as e:
            raise UserError(f"{str(self.path)!r}: cannot be written to: {e.strerror}") from None
        with file:
            yield

    def event(self, kind: str, /, **details: Any) -> None:
        """Append an event to events.jsonl; raises `OSError`."""
        append(self.events, event_line(kind, details))

    def save_config(self, config: Config) -> None:
        """Write config.yaml and versions.json, each in one step."""
        self.write_config(config)
        write_atomically(self.path / "versions.json", json.dumps(versions(), indent=1) + "\n")

    def write_config(self, config: Config) -> None:
        """Write config.yaml in one step."""
        write_atomically(self.path / "config.yaml", to_yaml(config))


def event_line(kind: str, details: Mapping[str, Any]) -> bytes:
    """Line of events.jsonl about an event that happens now."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, **details}
    return (json.dumps(line) + "\n").encode()


class RunExists(UserError):
    """The folder of a new run exists."""


def create(config: Config, name: str) -> RunFolder:
    """Make the folder run.root/NAME of a new run.

    Raises `RunExists` if it exists, and `UserError` if it cannot be written or the disk is full.
    """
    path = local_path(config.run.root, "run.root") / name
    try:
        path.mkdir(parents=True)
        try:
            check_disk(path)
            folder = RunFolder(path)
            folder.save_config(config)
        except BaseException:  # a signal too: the name stays free
            shutil.rmtree(path, ignore_errors=True)
            raise
    except FileExistsError:
        if path.is_dir():
            raise RunExists(
                f"the run {str(path)!r} exists; continue it with: impala-mi resume {shlex.quote(str(path))}, "
                "or choose another run.name"
            ) from None
        raise UserError(
            f"run.root={config.run.root!r}: cannot make {str(path)!r}: a file has a name in it"
        ) from None
    except OSError as e:
        raise UserError(
            f"run.root={config.run.root!r}: cannot make the folder {str(path)!r}: {e.strerror}"
        ) from None
    return folder


def create_named(config: Config, configuration: str) -> RunFolder:
    """Make the folder of a new run: run.root/run.name or, if the run has no name, run.root/CONFIGURATION-DATE-TIME.

    Raises as `create`; runs without a name that start in the same second are numbered.
    """
    if config.run.name is not None:
        return create(config, config.run.name)
    name = f"{configuration[:MAX_STEM]}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(2):
        try:
            return create(config, name if number == 2 else f"{name}-{number - 1}")
        except RunExists:
            continue
    raise AssertionError


@contextlib.contextmanager
def new_run(config: Config, configuration: str) -> Iterator[RunFolder]:
    """Folder of a new run, locked inside the `with` block; see `create_named`.

    The folder is removed if a run is refused or interrupted, or Ray does not start, before its first checkpoint, so
    the name stays free.
    """
    folder = create_named(config, configuration)
    try:
        with folder.locked():
            yield folder
    except (UserError, StartError, KeyboardInterrupt):
        if not folder.checkpoints.exists():
            shutil.rmtree(folder.path)
        raise


def check_disk(path: Path) -> None:
    """Raise `UserError` if the disk is nearly full."""
    free = shutil.disk_usage(path).free
    if free < MIN_DISK_BYTES:
        raise UserError(
            f"{str(path)!r}: only {free / 2**20:.0f} MiB of disk are free, {MIN_DISK_BYTES / 2**20:.0f} MiB are "
            "needed; free some or choose another run.root"
        )


def open_run(path: str) -> RunFolder:
    """Open the folder of an existing run; raises `UserError`."""
    folder = local_path(path)
    if not folder.is_dir():
        raise UserError(f"no run {path!r}: there is no such folder")
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{path!r} is not a run: it has no config.yaml")
    if is_population(folder):
        members = sorted(str(p) for p in (folder / "members").glob("*"))
        raise UserError(f"{path!r} is a population; name one of its members: {', '.join(members) or 'none yet'}")
    return RunFolder(folder)


def is_population(folder: Path) -> bool:
    """Whether a folder belongs to a population, not to one run."""
    return os.path.isfile(folder / JOURNAL)


def local_population(run: str) -> Path | None:
    """Folder of a population of this machine that a user named, or None if it is not one; raises `UserError`."""
    folder = None if "://" in run else local_path(run)
    return folder if folder is not None and is_population(folder) else None


def versions() -> dict[str, str | None]:
    """Versions of Python, of `PACKAGES` and of the project's git checkout; None for those that are absent."""
    result: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = None
    result["git"] = revision()
    return result


def revision() -> str | None:
    """Git revision of the project, or None if it does not run from a checkout."""
    package = Path(__file__).resolve().parent
    git = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        tracked = subprocess.run(
            [*git[:3], "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
        done = subprocess.run(git, capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if tracked.returncode == done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        return None
