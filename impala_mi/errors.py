"""Errors that a user can fix. The command line prints them as one line."""

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Bad input (exit code 2): the message names the setting, its value and the remedy."""


class MissingPackageError(UserError):
    """An optional package is not installed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed; install it with: pip install 'impala-mi[{extra}]'"
        )


class TrainingError(Exception):
    """Training cannot continue (exit code 1); the last good checkpoint is kept."""


class GivenUp(TrainingError):
    """Too many actors or levels have failed for a run to continue; the run still writes a checkpoint."""


def explain(name: str, error: "ValidationError", valid: Sequence[str]) -> Iterator[str]:
    """One line per error of a configuration: the key, the value and what is accepted.

    Args:
        name: name of the configuration.
        error: errors of its validation.
        valid: all dotted keys, for the nearest one to a mistyped key.
    """
    for e in error.errors():
        path = [str(p) for p in e["loc"] if not str(p).startswith(("list[", "literal[", "constrained", "function"))]
        key = ".".join(path)
        if e["type"] == "extra_forbidden" and key == "pbt":
            yield f"{name}: the section pbt is of a population, which is trained by: impala-mi pbt"
        elif e["type"] == "missing" and key == "pbt":
            yield f"{name}: a population needs the section pbt (docs/pbt.md); a run is trained by: impala-mi train"
        elif e["type"] == "extra_forbidden" and key.startswith("pbt.space."):
            yield f"{name}: unknown key {key!r}; overrides give the whole space: 'pbt.space={{KEY: {{...}}}}'"
        elif e["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5) or difflib.get_close_matches(
                path[-1], [k.rpartition(".")[2] for k in valid], n=1
            )
            near = [k for k in valid if close and (k == close[0] or k.endswith("." + close[0]))]
            yield f"{name}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        elif not key:
            yield f"{name}: {e['msg'].removeprefix('Value error, ')}"
        elif isinstance(e["input"], dict):
            yield f"{name}: {key}: {e['msg'].removeprefix('Value error, ')}"
        else:
            yield f"{name}: {key}={e['input']!r}: {e['msg'].removeprefix('Value error, ')}"


def allow_only(overrides: Sequence[str], keys: Sequence[str], hint: str = "") -> None:
    """Raise `UserError` for an override of anything but these keys of env.dmlab."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in [f"env.dmlab.{name}" for name in keys]:
            raise UserError(f"override {override!r}: only env.dmlab.({'|'.join(keys)}) can be set here{hint}")
