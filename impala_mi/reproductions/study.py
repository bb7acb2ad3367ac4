"""A study: an experiment run into a folder, part by part, so that it can be interrupted and gone on with."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from impala_mi.errors import UserError
from impala_mi.runs.folder import revision, write_atomically

SAVE_EVERY_S = 60.0
SETTINGS = "settings.json"
BEGIN_AGAIN = "remove it to begin that part again"
GROWS = "seeds"
"""The last word of settings that may change: more of them are more parts."""

Progress = Callable[[float, str], None]
"""Told the share of the whole that is done, and what is being done."""


@dataclass
class Study:
    """The folder of one experiment, with what it has done so far.

    The same command goes on where it stopped: parts that were done are read, the part that was being done
    continues from its last state.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    """What was asked for: quick or not, seed, device, options."""
    progress: Progress = lambda share, what: None
    read: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """Results of the parts so far, by name."""
    _revision: str | None = field(default_factory=revision, repr=False)
    _lock: IO[str] | None = field(default=None, repr=False)
    _saved_at: float = 0.0

    @property
    def quick(self) -> bool:
        """Minutes on two cores, instead of the whole protocol."""
        return bool(self.settings["quick"])

    @property
    def seed(self) -> int:
        """Of everything random."""
        return int(self.settings["seed"])

    @property
    def device(self) -> torch.device:
        """To train on."""
        return torch.device(self.settings["device"])

    def begin(self, **protocol: Any) -> None:
        """Take the folder, when all that was asked for is known to make sense; `part` does so where nobody has.

        Args:
            protocol: what results depend on besides `settings`: sizes, steps, the data.

        Raises `UserError` where the folder belongs to other settings or to something else, or is in use.
        """
        file = self.folder / SETTINGS
        asked = json.loads(json.dumps({"name": self.name, **self.settings, **protocol}))
        try:
            if self.folder.exists() and not file.exists() and any(self.folder.iterdir()):
                raise UserError(
                    f"{str(self.folder)!r} is not empty and, without {SETTINGS}, no study to go on with; name "
                    "another folder with --out"
                )
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{str(self.folder)!r} is being worked on by another process") from None
        except OSError as e:
            raise UserError(
                f"{str(self.folder)!r} cannot be used: {e.strerror}; name another folder with --out"
            ) from None
        try:
            if file.exists():
                self._compare(file, asked)
        except UserError:
            self._lock.close()
            raise
        write_atomically(file, json.dumps(asked, indent=1) + "\n")

    def _compare(self, file: Path, asked: dict[str, Any]) -> None:
        """Raise `UserError` where the folder was begun with others than the settings that are asked for."""
        with _damage_named(file, f"put it back, or name another folder than {str(self.folder)!r} with --out"):
            before = dict(_flat(json.loads(file.read_text(encoding="utf-8")), ""))
        now = dict(_flat(asked, ""))
        for key in [*now, *(before.keys() - now.keys())]:  # the name first, then what was said, then what follows
            if before.get(key) == now.get(key) or key.rpartition(".")[2] == GROWS:
                continue
            if key == "name":
                what = f"holds the experiment {before.get(key)!r}, not {now[key]!r}"
            elif key == "quick":
                what = f"was begun {'with' if before.get(key) else 'without'} --quick"
            else:
                what = f"was begun with {key}={before.get(key)!r}, not {now.get(key)!r}"
            raise UserError(f"{str(self.folder)!r} {what}; name another folder with --out, or remove it")

    def part(self, name: str, run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The results of a part: read if it was done, or else run and written. Plain containers and numbers.

        `seconds`, the time that it took over all its attempts, and the `revision` that ended it are added. Raises
        `UserError` where they are damaged.
        """
        if self._lock is None:
            self.begin()
        file = self.folder / "parts" / f"{name}.json"
        if not file.exists():
            clock = file.with_suffix(".seconds")
            before, began = _seconds(clock), time.monotonic()
            self._saved_at = began
            try:
                result = dict(run())
            finally:
                write_atomically(clock, str(before + time.monotonic() - began))
            facts = {"seconds": _seconds(clock), "revision": self._revision}
            write_atomically(file, json.dumps(result | facts) + "\n")
            for left in (clock, self._state(name)):
                left.unlink(missing_ok=True)
        with _damage_named(file, BEGIN_AGAIN):
            read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            float(read["seconds"])
        self.read[name] = read
        return read

    def restore(self, name: str, go_on: Callable[[dict[str, Any]], None]) -> None:
        """Call `go_on` with the last state of a part that was interrupted, on the CPU, if there is one.

        Raises `UserError` where it is damaged or of another kind; it is never unpickled.
        """
        file = self._state(name)
        if file.exists():
            with _damage_named(file, BEGIN_AGAIN):
                go_on(torch.load(file, map_location="cpu", weights_only=True))

    def save(self, name: str, state: Callable[[], dict[str, Any]]) -> None:
        """Keep a part's state (tensors, numbers, strings, containers of them) where the last is a minute old."""
        if time.monotonic() - self._saved_at < SAVE_EVERY_S:
            return
        aside = self._state(name).with_suffix(".aside")
        torch.save(state(), aside)
        os.replace(aside, self._state(name))
        self._saved_at = time.monotonic()

    def _state(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.pt"


@contextlib.contextmanager
def _damage_named(file: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError) as e:
        raise UserError(f"{str(file)!r} cannot be read: {type(e).__name__}: {e}; it is left as it is") from None
    except Exception as e:  # torch raises anything on a damaged file
        reason = f"{type(e).__name__}: {e}".splitlines()[0]
        raise UserError(f"{str(file)!r} is damaged ({reason}); {remedy}") from None


def _seconds(clock: Path) -> float:
    """What earlier attempts took; none where nobody knows."""
    try:
        return float(clock.read_text())
    except (OSError, ValueError):
        return 0.0


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
