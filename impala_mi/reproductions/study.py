"""A study: an experiment that runs into a folder part by part, and continues there after an interruption."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from impala_mi.errors import UserError
from impala_mi.host.files import lock, replacing, write_atomically
from impala_mi.runs.folder import revision

SAVE_EVERY_S = 60.0
"""Seconds between saved states of a part."""
SETTINGS = "settings.json"
REDO_PART = "remove it to run that part again"
GROWING_SETTING = "seeds"
"""Last word of the settings that may change in a folder: more seeds add parts."""

Progress = Callable[[float, str], None]
"""Callback that receives the share of the study that is done, and a description of the current part."""


@dataclass
class Study:
    """Folder of one experiment and the results of its parts.

    Running the same command again continues: finished parts are read, and an interrupted part continues from its
    last saved state.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    """Settings of the command: quick, seed, device, options."""
    progress: Progress = lambda share, description: None
    results: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """Results of the finished parts by name."""
    _revision: str | None = field(default_factory=revision, repr=False)
    _lock: IO[str] | None = field(default=None, repr=False)
    _saved_at: float = 0.0

    @property
    def quick(self) -> bool:
        """Whether to run for minutes on two cores instead of the whole protocol."""
        return bool(self.settings["quick"])

    @property
    def seed(self) -> int:
        """Seed of everything random."""
        return int(self.settings["seed"])

    @property
    def device(self) -> torch.device:
        """Device to train on."""
        return torch.device(self.settings["device"])

    def begin(self, **protocol: Any) -> None:
        """Lock the folder and write its settings; `part` does so if nothing else did.

        Call it once all arguments are known to be valid.

        Args:
            protocol: what results depend on besides `settings`: sizes, steps, the data.

        Raises:
            UserError: the folder belongs to other settings or is no study, is in use, or cannot be written.
        """
        file = self.folder / SETTINGS
        requested = json.loads(json.dumps({"name": self.name, **self.settings, **protocol}))
        try:
            if self.folder.exists() and not file.exists() and any(self.folder.iterdir()):
                raise UserError(
                    f"{str(self.folder)!r} is not empty and has no {SETTINGS}, so it is no study's folder; name "
                    "another folder with --out"
                )
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            if self._lock is not None:
                self._lock.close()
            self._lock = lock(self.folder / ".lock")
        except BlockingIOError:
            raise UserError(f"{str(self.folder)!r} is in use by another process") from None
        except OSError as e:
            raise UserError(
                f"{str(self.folder)!r} cannot be used: {e.strerror}; name another folder with --out"
            ) from None
        try:
            if file.exists():
                self._compare(file, requested)
        except UserError:
            self._lock.close()
            raise
        write_atomically(file, json.dumps(requested, indent=1) + "\n")

    def _compare(self, file: Path, requested: dict[str, Any]) -> None:
        """Raise `UserError` if the folder's settings differ from the requested ones."""
        with name_damage(file, f"put it back, or name another folder than {str(self.folder)!r} with --out"):
            before = dict(_flatten(json.loads(file.read_text(encoding="utf-8")), ""))
        now = dict(_flatten(requested, ""))
        for key in [*now, *(before.keys() - now.keys())]:  # the name first, then settings, then the protocol
            if before.get(key) == now.get(key) or key.rpartition(".")[2] == GROWING_SETTING:
                continue
            if key == "name":
                difference = f"holds the experiment {before.get(key)!r}, not {now[key]!r}"
            elif key == "quick":
                difference = f"was begun {'with' if before.get(key) else 'without'} --quick"
            else:
                difference = f"was begun with {key}={before.get(key)!r}, not {now.get(key)!r}"
            raise UserError(f"{str(self.folder)!r} {difference}; name another folder with --out, or remove it")

    def part(self, name: str, run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the results of a part: read from its file, or computed with `run` and written.

        Results are plain containers and numbers. `seconds` (the time of all attempts) and the `revision` of the
        code that finished the part are added.

        Raises:
            UserError: the part's file is damaged.
        """
        if self._lock is None:
            self.begin()
        file = self.folder / "parts" / f"{name}.json"
        if not file.exists():
            clock = file.with_suffix(".seconds")
            before, started = _read_seconds(clock), time.monotonic()
            self._saved_at = started
            try:
                result = dict(run())
            finally:
                write_atomically(clock, str(before + time.monotonic() - started))
            facts = {"seconds": _read_seconds(clock), "revision": self._revision}
            write_atomically(file, json.dumps(result | facts) + "\n")
            for leftover in (clock, self._state(name)):
                leftover.unlink(missing_ok=True)
        with name_damage(file, REDO_PART):
            results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            float(results["seconds"])
        self.results[name] = results
        return results

    def restore(self, name: str, load: Callable[[dict[str, Any]], None]) -> None:
        """Call `load` with the last state of an interrupted part, on the CPU, if there is one.

        The state is never unpickled.

        Raises:
            UserError: the state is damaged, or `load` does not accept it.
        """
        file = self._state(name)
        if file.exists():
            with name_damage(file, REDO_PART):
                load(torch.load(file, map_location="cpu", weights_only=True))

    def save(self, name: str, state: Callable[[], dict[str, Any]]) -> None:
        """Save a part's state if the last save is `SAVE_EVERY_S` ago: tensors, numbers, strings, containers."""
        if time.monotonic() - self._saved_at < SAVE_EVERY_S:
            return
        with replacing(self._state(name)) as aside:
            torch.save(state(), aside)
        self._saved_at = time.monotonic()

    def _state(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.pt"


@contextlib.contextmanager
def name_damage(file: Path, remedy: str) -> Iterator[None]:
    """Turn any error of reading a file into a `UserError` that names the file."""
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError) as e:
        raise UserError(f"{str(file)!r} cannot be read: {type(e).__name__}: {e}; it is kept unchanged") from None
    except Exception as e:  # torch raises anything on a damaged file
        reason = f"{type(e).__name__}: {e}".splitlines()[0]
        raise UserError(f"{str(file)!r} is damaged ({reason}); {remedy}") from None


def _read_seconds(clock: Path) -> float:
    """Seconds that earlier attempts took; 0 if the file is missing or damaged."""
    try:
        return float(clock.read_text())
    except (OSError, ValueError):
        return 0.0


def _flatten(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
