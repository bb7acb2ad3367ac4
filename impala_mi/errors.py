"""Errors that a user can fix. The command line prints them as one line."""

import difflib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from impala_mi.redaction import redact, redact_url

if TYPE_CHECKING:
    from pydantic import ValidationError


MAX_VALUE_CHARS = 100
"""Characters of a value that messages repeat."""
MAX_ERRORS = 3
"""Errors of a configuration that are explained at once."""


def shorten(text: str, limit: int = MAX_VALUE_CHARS) -> str:
    """Text in one line of at most `limit` characters, those in its middle and secrets of URLs left out."""
    text = redact(text)  # first: a shortened URL could no longer be recognised
    half = (limit - 5) // 2
    kept = text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
    return printable(kept)


def printable(text: str, keep: str = "") -> str:
    """Text whose control characters, direction marks and line breaks are escaped, except those in `keep`.

    Names of others cannot move the cursor of a terminal or turn the text around them.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


class _Explained(Exception):
    """Error whose message is for the user, without secrets of URLs."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(each) if isinstance(each, str) else each for each in arguments))


class UserError(_Explained):
    """Bad input (exit code 2): the message names the setting, its value and the remedy."""


class MissingPackageError(UserError):
    """An optional package is not installed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed; install it with: pip install 'impala-mi[{extra}]'"
        )


class TrainingError(_Explained):
    """Training cannot continue (exit code 1); the last good checkpoint is kept."""


class StartError(TrainingError):
    """Ray or its cluster does not start; no run has begun, and the same command may succeed later (exit code 1)."""


class GivenUp(TrainingError):
    """Too many actors or levels have failed for a run to continue; the run still writes a checkpoint."""


def explain(name: str, error: "ValidationError", valid: Sequence[str]) -> Iterator[str]:
    """One line per error of a configuration, of the first `MAX_ERRORS`: the key, the value and what is accepted.

    Args:
        name: name of the configuration.
        error: errors of its validation.
        valid: all dotted keys, for the nearest one to a mistyped key.
    """
    name = shorten(name)
    for e in islice(error.errors(include_url=False), MAX_ERRORS):
        path = [str(p) for p in e["loc"] if not str(p).startswith(("list[", "literal[", "constrained", "function"))]
        key = ".".join(path)
        shown, message = shorten(key), shorten(e["msg"].removeprefix("Value error, "), 600)
        if e["type"] == "extra_forbidden" and key == "pbt":
            yield f"{name}: the section pbt is of a population, which is trained by: impala-mi pbt"
        elif e["type"] == "missing" and key == "pbt":
            yield f"{name}: a population needs the section pbt (docs/pbt.md); a run is trained by: impala-mi train"
        elif e["type"] == "extra_forbidden" and key.startswith("pbt.space."):
            yield f"{name}: unknown key '{shown}'; overrides give the whole space: 'pbt.space={{KEY: {{...}}}}'"
        elif e["type"] == "extra_forbidden" and len(path) == 1 and key in valid:
            section, _, rest = key.rpartition(".")
            yield (
                f"{name}: {key}: in a file a section is a mapping: {section + ':'!r} and, indented below it, "
                f"'{rest}: ...'"
            )
        elif e["type"] == "extra_forbidden":
            yield f"{name}: unknown key '{shown}'{_nearest(key, path[-1], valid)}"
        elif not key:
            yield f"{name}: {message}"
        elif isinstance(e["input"], dict):
            yield f"{name}: {shown}: {message}"
        else:
            value = redact_url(e["input"]) if isinstance(e["input"], str) else e["input"]
            yield f"{name}: {shown}={shorten(repr(value))}: {message}"


def _nearest(key: str, last: str, valid: Sequence[str]) -> str:
    """Hint at the valid key nearest to a mistyped one, or to its `last` part; empty if there is none."""
    if len(key) > MAX_VALUE_CHARS:
        return ""
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5) or difflib.get_close_matches(
        last, [k.rpartition(".")[2] for k in valid], n=1
    )
    near = [k for k in valid if close and (k == close[0] or k.endswith("." + close[0]))]
    return f"; did you mean {near[0]!r}?" if near else ""


def allow_only(overrides: Sequence[str], keys: Sequence[str], hint: str = "") -> None:
    """Raise `UserError` for an override of anything but these keys of env.dmlab."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in [f"env.dmlab.{name}" for name in keys]:
            raise UserError(
                f"override '{shorten(override)}': only env.dmlab.({'|'.join(keys)}) can be set here{hint}"
            )
