"""Checkpoints: a folder each, written aside and renamed, never unpickled."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from impala_mi.errors import UserError

FORMAT = 1
STATE, META, BEST = "state.pt", "meta.json", "best.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved."""

    path: Path
    agent: dict[str, torch.Tensor]
    learner: dict[str, Any]
    run: dict[str, Any]
    """Statistics of the driver."""
    meta: dict[str, Any]


def save(
    folder: Path, learner: Mapping[str, Any], run: Mapping[str, Any], meta: Mapping[str, Any], keep: int
) -> Path:
    """Write checkpoints/STEP (the env frames), mark it best if its score is, and drop older ones.

    `learner` and `run` hold plain containers of tensors, numbers and strings. `meta` is JSON with `env_frames`
    and `score` (None where there is none). The newest `keep` and the best are kept.
    """
    name = f"{meta['env_frames']:015d}"
    final, aside = folder / name, folder / f".{name}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(".*"):  # left by a process that died while writing
        shutil.rmtree(old, ignore_errors=True)
    aside.mkdir()
    with open(aside / STATE, "wb") as f:
        torch.save({"learner": dict(learner), "run": dict(run)}, f)
        f.flush()
        os.fsync(f.fileno())
    (aside / META).write_text(json.dumps({"format": FORMAT, **meta}) + "\n", encoding="utf-8")
    if final.exists():
        shutil.rmtree(final)
    os.rename(aside, final)

    best = _best(folder)
    if meta["score"] is not None and (best is None or meta["score"] >= best["score"]):
        best = {"checkpoint": name, "score": meta["score"]}
        file = folder / f".{BEST}"
        file.write_text(json.dumps(best) + "\n", encoding="utf-8")
        os.replace(file, folder / BEST)
    for old in steps(folder)[:-keep]:
        if best is None or old.name != best["checkpoint"]:
            shutil.rmtree(old)
    return final


def steps(folder: Path) -> list[Path]:
    """Folders of the checkpoints, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir())


def _best(folder: Path) -> dict[str, Any] | None:
    try:
        best: dict[str, Any] = json.loads((folder / BEST).read_text(encoding="utf-8"))
        return best if (folder / best["checkpoint"]).is_dir() else None
    except (OSError, ValueError, KeyError):
        return None


def load(folder: Path, which: str = "last") -> Checkpoint:
    """Read the `last` or the `best` checkpoint, or the one named; raises `UserError`.

    A `last` that cannot be read gives way to the one before it; if none can be read, the error names the newest.
    """
    found = steps(folder)
    if not found:
        raise UserError(f"no checkpoint in {str(folder)!r}: the run ended before its first")
    if which == "last":
        errors = []
        for path in reversed(found):
            try:
                return _read(path)
            except UserError as e:
                errors.append(e)
        raise errors[0]
    if which == "best":
        best = _best(folder)
        if best is None:
            raise UserError(f"no best checkpoint in {str(folder)!r}: no score was known; use --checkpoint last")
        return _read(folder / best["checkpoint"])
    path = folder / which
    if not path.is_dir():
        raise UserError(f"no checkpoint {which!r}; there are last, best, {', '.join(p.name for p in found)}")
    return _read(path)


def _read(path: Path) -> Checkpoint:
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        learner, run = state["learner"], state["run"]
        checkpoint = Checkpoint(path, learner["agent"], learner, run, meta)
    except Exception as e:  # torch raises anything on a damaged file
        reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
        raise UserError(
            f"the checkpoint {str(path)!r} is damaged ({reason}); remove it to use the one before it"
        ) from None
    if meta.get("format") != FORMAT:
        raise UserError(
            f"the checkpoint {str(path)!r} has format {meta.get('format')}, this version reads {FORMAT}"
        )
    return checkpoint


def check_fits(checkpoint: Checkpoint, module: torch.nn.Module) -> None:
    """Raise `UserError` naming the first difference where the weights are of another architecture."""
    for problem in _differences(checkpoint.agent, module.state_dict()):
        raise UserError(
            f"the checkpoint {str(checkpoint.path)!r} is of another architecture: {problem}; "
            "use the run's own agent settings and levels"
        )


def _differences(saved: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, tensor in wanted.items():
        if name not in saved:
            yield f"{name} is missing"
        elif saved[name].shape != tensor.shape:
            yield f"{name} is {list(saved[name].shape)}, the configuration needs {list(tensor.shape)}"
    for name in saved:
        if name not in wanted:
            yield f"{name} is in excess"
