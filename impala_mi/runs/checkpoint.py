"""Checkpoints: written and read, never unpickled; the best is the one with the highest score.

Each is a folder, written under another name and renamed. Its meta.json holds digests of its content; whatever is
wrong with a checkpoint, the one before it is read, with a warning.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from impala_mi.errors import UserError, shorten
from impala_mi.host.files import write_atomically
from impala_mi.runs.checkpoint_checks import (
    DIGESTS,
    SCHEMA,
    HashedFile,
    check_digest,
    check_meta,
    check_state,
    check_tensor,
    is_finite,
    read_json,
    with_digests,
)

FORMAT = 2
STATE, META, BEST = "state.pt", "meta.json", "best.json"


class Unsuitable(UserError):
    """An intact checkpoint is of another architecture or of a newer version; those before it are no better."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint."""

    path: Path
    agent: dict[str, torch.Tensor]
    learner: dict[str, Any]
    run: dict[str, Any]
    """Statistics that the driver keeps."""
    meta: dict[str, Any]


def save(
    folder: Path, learner: Mapping[str, Any], run: Mapping[str, Any], meta: Mapping[str, Any], keep: int
) -> Path:
    """Write checkpoints/STEP (the env frames), mark it best if its score is, and drop older ones.

    `learner` and `run` hold plain containers of tensors, numbers and strings. `meta` is JSON with `env_frames` and
    `score` (None if it is unknown). The newest `keep` checkpoints and the best are kept. Raises `OSError`.
    """
    name = f"{meta['env_frames']:015d}"
    final, aside = folder / name, folder / f".{name}.{os.getpid()}"
    folder.mkdir(exist_ok=True)  # not those above it: a run's folder that was removed must not come back in part
    for old in folder.glob(".*"):  # a process died while it wrote them
        shutil.rmtree(old, ignore_errors=True)
    aside.mkdir()
    try:
        with open(aside / STATE, "wb") as f:
            hashed = HashedFile(f)
            torch.save({"learner": dict(learner), "run": dict(run)}, cast(IO[bytes], hashed))
            _sync(f)
        with open(aside / META, "w", encoding="utf-8") as f:
            f.write(json.dumps(with_digests({"format": FORMAT, **meta}, STATE, hashed.digest())) + "\n")
            _sync(f)
    except (OSError, RuntimeError) as e:  # PyTorch reports a full disk as RuntimeError
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(f"the checkpoint {final} could not be written: {str(e).splitlines()[0]}") from None
    if final.exists():  # renamed first, so that a whole checkpoint exists at all but one instant
        os.rename(final, folder / f".{name}.old")
    os.rename(aside, final)
    shutil.rmtree(folder / f".{name}.old", ignore_errors=True)

    best = _best(folder)
    if meta["score"] is not None and (best is None or meta["score"] >= best["score"]):
        best = {"checkpoint": name, "score": meta["score"]}
        write_atomically(folder / BEST, json.dumps(best) + "\n")
    kept = {final.name, *(p.name for p in steps(folder)[-keep:]), *([] if best is None else [best["checkpoint"]])}
    for old in steps(folder):
        if old.name not in kept:
            shutil.rmtree(old)
    return final


def digest(learner: dict[str, Any]) -> str:
    """Digest of the weights and the optimiser in a learner's state; equal if all their numbers are equal."""
    result = hashlib.sha256()
    optimizer = learner["optimizer"]
    slots = {f"{name}.{i}": part for name, parts in optimizer["slots"].items() for i, part in enumerate(parts)}
    for name, tensor in sorted((dict(learner["agent"]) | slots).items()):
        result.update(f"{name}{list(tensor.shape)}".encode())
        result.update(tensor.contiguous().numpy().tobytes())
    result.update(str(optimizer["steps"]).encode())
    return result.hexdigest()


def forget_after(folder: Path, checkpoint: Checkpoint) -> list[str]:
    """Set aside the checkpoints newer than the one that a run continues from; returns their names.

    They are renamed, not removed, and no longer count as the run's last.
    """
    newer = [p for p in steps(folder) if p.name > checkpoint.path.name]
    for path in newer:
        aside = folder / f"abandoned-{path.name}-{os.getpid()}"
        os.rename(path, aside)
    return [p.name for p in newer]


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def steps(folder: Path) -> list[Path]:
    """List the folders of the checkpoints, oldest first."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.isdecimal() and os.path.isdir(entry)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _best(folder: Path) -> dict[str, Any] | None:
    try:
        best = read_json(folder / BEST)
    except (OSError, ValueError):
        return None
    names = [path.name for path in steps(folder)]
    return best if best.get("checkpoint") in names and is_finite(best.get("score")) else None


def has_best(folder: Path) -> bool:
    """Whether there is a best checkpoint; there is none until a score is known."""
    return _best(folder) is not None


def load(folder: Path, which: str = "last", check: Callable[[Checkpoint], None] = lambda _: None) -> Checkpoint:
    """Read the `last` or the `best` checkpoint, or the one with this name.

    If the last one is damaged, the one before it is read, with a warning, and the last if the best one is. One
    that is intact and does not suit is refused at once.

    Args:
        folder: folder that holds the checkpoints.
        which: last, best, or a name.
        check: raises `UserError` or `ValueError` if a checkpoint does not suit.

    Raises:
        UserError: there is no such checkpoint, or none can be read; the message names the newest.
        Unsuitable: one is intact and of another architecture or of a newer version.
    """
    paths = steps(folder)
    if not paths:
        raise UserError(f"no checkpoint in {str(folder)!r}: the run ended before its first; start another")
    candidates = list(reversed(paths))
    if which == "best":
        best = _best(folder)
        if best is None:
            raise UserError(f"no best checkpoint in {str(folder)!r}: no score was known; use --checkpoint last")
        candidates = [folder / best["checkpoint"], *(p for p in candidates if p.name != best["checkpoint"])]
    elif which != "last":
        path = folder / which
        if path not in paths:  # otherwise a path could lead to another run's
            names = ", ".join(p.name for p in paths)
            raise UserError(f"no checkpoint '{shorten(which)}'; there are last, best, {names}")
        return _read(path, check)
    errors: list[UserError] = []
    for path in candidates:
        try:
            checkpoint = _read(path, check)
        except Unsuitable:
            raise
        except UserError as e:
            errors.append(e)
            continue
        for error in errors:
            warnings.warn(f"{error}; going on with {path.name}", stacklevel=2)
        return checkpoint
    raise errors[0]


def _read(path: Path, check: Callable[[Checkpoint], None]) -> Checkpoint:
    try:
        meta = read_json(path / META)
        if (version := meta.get("format")) != FORMAT:
            raise UserError(
                f"the checkpoint {str(path)!r} has format {shorten(repr(version))}, this version reads {FORMAT}"
            )
        check_meta(meta)
        if (schema := meta.get("schema", 0)) > SCHEMA:
            raise Unsuitable(
                f"the checkpoint {str(path)!r} is of a newer version: it has schema {schema}, this one reads "
                f"{SCHEMA} at most; upgrade impala-mi"
            )
        check_digest(path / STATE, meta)
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        check_state(state)
        checkpoint = Checkpoint(path, state["learner"]["agent"], state["learner"], state["run"], meta)
        check(checkpoint)
    except UserError:
        raise
    except Exception as e:  # torch raises anything on a damaged file
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UserError(
            f"the checkpoint {str(path)!r} is damaged ({shorten(reason, 200)}); name another with --checkpoint"
        ) from None
    return checkpoint


def check_fits(checkpoint: Checkpoint, module: torch.nn.Module) -> None:
    """Check that weights are those of a module, and its parameters finite; buffers may hold anything.

    Raises:
        Unsuitable: an intact checkpoint is of another architecture; the message has the first difference.
        UserError: the same of a checkpoint without digests, which may be damaged.
        ValueError: a parameter is not finite.
    """
    for problem in _differences(checkpoint.agent, module.state_dict()):
        intact = STATE in checkpoint.meta.get(DIGESTS, {})
        raise (Unsuitable if intact else UserError)(
            f"the checkpoint {str(checkpoint.path)!r} is of another architecture: {problem}; "
            "use the run's own agent settings and levels"
        )
    for name, _ in module.named_parameters(remove_duplicate=False):
        check_tensor(f"weights.{name}", checkpoint.agent[name])


def _differences(saved: Mapping[str, torch.Tensor], required: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, tensor in required.items():
        if name not in saved:
            yield f"{name} is missing"
        elif saved[name].shape != tensor.shape:
            yield f"{name} is {list(saved[name].shape)}, the configuration needs {list(tensor.shape)}"
        elif saved[name].dtype != tensor.dtype:
            yield f"{name} is {saved[name].dtype}, the configuration needs {tensor.dtype}"
    for name in saved:
        if name not in required:
            yield f"{name} is in excess"
