"""Text of configurations: files, those that are shipped, and overrides of their values."""

import warnings
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from impala_mi.errors import UserError, shorten
from impala_mi.host.files import open_file
from impala_mi.paths import local_path
from impala_mi.redaction import redact_url
from impala_mi.yaml_text import MAX_BYTES, parse_yaml

MAX_KEY_PARTS = 40
"""Most sections that the key of an override may name."""
ALTERNATIVES = ("actors.count", "actors.per_level"), ("actors.per_level", "actors.count")
"""Keys of which only one is set: where an override sets the first, the second is dropped from the configuration."""


def find(path: str) -> tuple[str, str]:
    """(name, text) of a configuration: a file, or one that is shipped (`doom`, `configs/doom.yaml`)."""
    shipped = resources.files("impala_mi") / "configs"
    names = sorted(f.name.removesuffix(".yaml") for f in shipped.iterdir() if f.name.endswith(".yaml"))
    file = local_path(path)
    try:
        if file.is_file():
            return file.stem, read_config(file)
        name = file.name.removesuffix(".yaml")
        if file.parent in (Path("."), Path("configs")) and name in names:
            return name, (shipped / f"{name}.yaml").read_text(encoding="utf-8")
        kind = "a folder" if file.is_dir() else "neither a file nor a folder" if file.exists() else ""
    except OSError as e:
        raise UserError(f"{shorten(path)}: cannot be read: {e.strerror}") from None
    if kind:
        raise UserError(f"{shorten(path)}: is {kind}; name a YAML file, or one of the shipped {', '.join(names)}")
    raise UserError(f"no configuration '{shorten(path)}': neither a file nor one of the shipped {', '.join(names)}")


def read_config(file: Path) -> str:
    """Text of a file with a configuration; raises `UserError`."""
    try:
        with open_file(file) as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{shorten(str(file))}: more than {MAX_BYTES:,} bytes, which are read at most")
        return content.decode()
    except OSError as e:
        raise UserError(f"{shorten(str(file))}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{shorten(str(file))}: cannot be read: it is no text in UTF-8: {e.reason}") from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str], name: str) -> None:
    """Set the `KEY=VALUE` overrides in the nested mappings of the configuration `name`; raises `UserError`."""
    for override in overrides:
        key, equals, value = override.partition("=")
        shown = f"override '{shorten(key + equals + redact_url(value))}'"
        if not equals or not key.strip():
            raise UserError(f"{shown}: write it as key=value, for example learner.batch_size=64")
        _set(values, key.strip().split("."), parse_yaml(value, shown), shown)
    _prefer_overrides(values, overrides, name)


def _set(values: dict[str, Any], path: list[str], value: Any, shown: str) -> None:
    if len(path) > MAX_KEY_PARTS:
        raise UserError(f"{shown}: no key has {len(path)} parts")
    for key in path[:-1]:
        if values.get(key) is None:  # an optional section that is off
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise UserError(f"{shown}: '{shorten(key)}' is a value, not a section")
    values[path[-1]] = value


def _prefer_overrides(values: dict[str, Any], overrides: Sequence[str], name: str) -> None:
    """Drop what an override replaces by its alternative, with a warning."""
    given = {override.partition("=")[0].strip() for override in overrides}
    for key, alternative in ALTERNATIVES:
        before = _nested(values, alternative)
        if key in given and alternative not in given and None not in (before, _nested(values, key)):
            _set(values, alternative.split("."), None, key)
            warnings.warn(
                f"{key} on the command line replaces {alternative}={shorten(repr(before))} of {shorten(name)}",
                stacklevel=2,
            )


def _nested(values: Any, key: str) -> Any:
    """Value of a dotted key in nested mappings, or None."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
