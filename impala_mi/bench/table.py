"""Tables of measurements, saved as JSON and compared with earlier ones."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from impala_mi.errors import UserError
from impala_mi.host.threads import cores

Row = dict[str, Any]


def this_machine() -> dict[str, Any]:
    """Hardware, PyTorch version and load under which the measurements were made."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cores": cores(), "machine": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability(), "gpu": gpu,
        "torch": torch.__version__, "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip


@dataclass(frozen=True)
class BenchTable:
    """Rows of one benchmark."""

    kind: str
    """Name of the subcommand of `impala-mi bench`."""
    keys: tuple[str, ...]
    """Columns that say what was measured; the other columns are measurements."""
    rows: Sequence[Row]
    compared: str
    """The column of which `compare` computes the ratio."""
    notes: Sequence[str] = ()
    when: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))
    machine: Mapping[str, Any] = field(default_factory=this_machine)

    def save(self, file: Path) -> None:
        """Write the table as JSON; raises `UserError`."""
        try:
            file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        except OSError as e:
            raise UserError(f"--json {file}: cannot be written: {e.strerror}") from None

    def compare(self, file: Path) -> list[Row]:
        """The rows, extended by the earlier value of the compared column and the ratio new / old.

        Raises `UserError` if the file is not a table of the same kind.
        """
        try:
            other = json.loads(file.read_text(encoding="utf-8"))
            if other["kind"] != self.kind:
                raise UserError(f"--compare {file}: holds `bench {other['kind']}`, not `bench {self.kind}`")
            earlier = {tuple(row[k] for k in self.keys): row[self.compared] for row in other["rows"]}
        except OSError as e:
            raise UserError(f"--compare {file}: cannot be read: {e.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"--compare {file}: was not written by `impala-mi bench --json`") from None
        rows = []
        for row in self.rows:
            before = earlier.get(tuple(row[k] for k in self.keys))
            ratio = None if not before else row[self.compared] / before
            rows.append({**row, f"{self.compared}, before": before, "ratio": ratio})
        return rows
