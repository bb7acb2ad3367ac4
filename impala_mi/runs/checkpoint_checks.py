"""Checks of what a checkpoint holds, whoever wrote it: digests, JSON and tensors."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

SCHEMA = 1
"""Version of the keys of meta.json: 1 added `schema` and `sha256`, which older ones lack; newer are refused."""
MAX_META_BYTES = 2**20
"""Largest meta.json or best.json that is read."""
MAX_NUMBER = 1e300
"""Numbers that are not below it count as infinite."""
DIGESTS = "sha256"
"""Key of meta.json: digests of the state's file (`state.pt`) and of the rest of meta.json (`meta.json`)."""


class HashedFile:
    """File whose content is hashed as it is written.

    Args:
        file: binary file to write to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes, see `io.RawIOBase.write`."""
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def digest(self) -> str:
        """Digest of what was written so far."""
        return self._hash.hexdigest()


def with_digests(meta: Mapping[str, Any], state_name: str, state_digest: str) -> dict[str, Any]:
    """The content of meta.json with the schema and digests."""
    rest = {key: value for key, value in meta.items() if key != DIGESTS} | {"schema": SCHEMA}
    return rest | {DIGESTS: {state_name: state_digest, "meta.json": _digest_of(rest)}}


def _digest_of(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def check_is_file(file: Path) -> None:
    """Raise `ValueError` unless a path is a file or a link to one: reading a pipe or a device may never end."""
    if not file.is_file():
        raise ValueError(f"{file.name} is missing or no file")


def read_json(file: Path) -> dict[str, Any]:
    """Mapping in a small JSON file; raises `OSError` or `ValueError`."""
    check_is_file(file)
    with open(file, "rb") as opened:
        content = opened.read(MAX_META_BYTES + 1)
    if len(content) > MAX_META_BYTES:
        raise ValueError(f"{file.name} has more than {MAX_META_BYTES:,} bytes")
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"{file.name} is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} holds no mapping")
    return value


def check_meta(meta: Mapping[str, Any]) -> None:
    """Raise `ValueError` if meta.json is not as it was written, or lacks what a run or a score needs."""
    digests = meta.get(DIGESTS, {})
    if not isinstance(digests, dict):
        raise ValueError(f"{DIGESTS} in meta.json is no mapping")
    if digests and digests.get("meta.json") != _digest_of({k: v for k, v in meta.items() if k != DIGESTS}):
        raise ValueError("meta.json does not have the digest in it")
    for key, default in (("env_frames", None), ("updates", 0), ("schema", 0)):
        if not is_count(value := meta.get(key, default)):
            raise ValueError(f"{key}={value!r} in meta.json is no number of {key}")
    score = meta.get("score")
    if score is not None and not is_finite(score):
        raise ValueError(f"score={score!r} in meta.json is no finite number")


def check_digest(file: Path, meta: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a path is no file, or has not the digest that meta.json gives, if it gives one."""
    check_is_file(file)
    expected = meta.get(DIGESTS, {}).get(file.name)
    if expected is not None:
        with open(file, "rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != expected:
                raise ValueError(f"{file.name} does not have the digest in meta.json")


def check_state(state: Any) -> None:
    """Raise `ValueError` unless a loaded state has a learner with weights, and the driver's statistics."""
    if not isinstance(state, dict) or not all(isinstance(state.get(key), dict) for key in ("learner", "run")):
        raise ValueError("no learner or no statistics of a run")
    weights = state["learner"].get("agent")
    if not isinstance(weights, dict) or not weights:
        raise ValueError("no weights")
    for name, value in tensors(weights, "weights"):
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}, not a tensor")
        check_dense(name, value)


def check_dense(name: str, tensor: torch.Tensor) -> None:
    """Raise `ValueError` unless a tensor is dense and in memory."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(f"{name} is no dense tensor in memory")


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Raise `ValueError` unless a tensor is dense, in memory and finite."""
    check_dense(name, tensor)
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} is not finite")


def tensors(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Leaves of nested containers with their dotted names."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from tensors(part, f"{name}.{number}")
    else:
        yield name, value


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number, and none of hundreds of digits."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < MAX_NUMBER  # false for NaN
