"""A study: an experiment run into a folder, part by part, so that it can be interrupted and gone on with."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from impala_mi.errors import UserError
from impala_mi.rundir import write_atomically

SAVE_EVERY_S = 60.0

Progress = Callable[[float, str], None]
"""Told the share of the whole that is done, and what is being done."""


@dataclass
class Study:
    """The folder of one experiment, with what it has done so far.

    The same command goes on where it stopped: parts that were done are read, the part that was being done
    continues from its last state. Raises `UserError` where the folder belongs to other settings.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    """Everything that the results depend on: quick or not, seed, device, options."""
    progress: Progress = lambda share, what: None
    _spent: float = 0.0
    _began_at: float = 0.0
    _saved_at: float = 0.0

    def __post_init__(self) -> None:
        file = self.folder / "settings.json"
        try:
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            if not file.exists():
                write_atomically(file, json.dumps({"name": self.name, **self.settings}, indent=1) + "\n")
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise UserError(f"{str(self.folder)!r}: cannot be used: {e}; name another folder with --out") from None
        asked = json.loads(json.dumps({"name": self.name, **self.settings}))
        for key in known.keys() | asked.keys():
            if known.get(key) != asked.get(key):
                raise UserError(
                    f"{str(self.folder)!r} was begun with {key}={known.get(key)!r}, not {asked.get(key)!r}; "
                    "name another folder with --out, or remove it"
                )

    @property
    def quick(self) -> bool:
        """Minutes on two cores, instead of the paper's protocol."""
        return bool(self.settings["quick"])

    @property
    def seed(self) -> int:
        """Of everything random."""
        return int(self.settings["seed"])

    @property
    def device(self) -> torch.device:
        """To train on."""
        return torch.device(self.settings["device"])

    def part(self, name: str, run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The results of a part: read if it was done, or else run and written. Plain containers and numbers.

        `seconds`, the time that it took over all its attempts, is added.
        """
        file = self.folder / "parts" / f"{name}.json"
        if not file.exists():
            before = self.saved(name)
            self._spent = 0.0 if before is None else float(before["seconds"])
            self._began_at = self._saved_at = time.monotonic()
            result = dict(run())
            result["seconds"] = self._seconds()
            write_atomically(file, json.dumps(result) + "\n")
            self._state(name).unlink(missing_ok=True)
        read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return read

    def saved(self, name: str) -> dict[str, Any] | None:
        """The last state of a part that was interrupted, on the CPU; None where there is none.

        Raises `UserError` where it is damaged; it is never unpickled.
        """
        try:
            state: dict[str, Any] = torch.load(self._state(name), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as e:  # torch raises anything on a damaged file
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise UserError(
                f"{str(self._state(name))!r} is damaged ({reason}); remove it to begin that part again"
            ) from None
        return state

    def save(self, name: str, state: Callable[[], dict[str, Any]]) -> None:
        """Keep a part's state (tensors, numbers, strings, containers of them) where the last is a minute old."""
        if time.monotonic() - self._saved_at < SAVE_EVERY_S:
            return
        aside = self._state(name).with_suffix(".aside")
        torch.save(state() | {"seconds": self._seconds()}, aside)
        os.replace(aside, self._state(name))
        self._saved_at = time.monotonic()

    def _state(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.pt"

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began_at
