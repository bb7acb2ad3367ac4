"""Paths as users write them."""

import os
import unicodedata
from pathlib import Path

from impala_mi.errors import UserError, shorten

MAX_PART_BYTES, MAX_PATH_BYTES = 255, 4000
"""Longest name of a file and longest path."""


def check_path(path: str) -> str | None:
    """Why no file of this machine can have a path, or None."""
    if not path:
        return "write the path of a folder, . for the current one"
    if "://" in path:
        return "is a URL; write the path of a folder of this machine"
    if any(unicodedata.category(c) == "Cc" for c in path):
        return "holds control characters"
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return "holds characters that no name of a file has here"
    if len(encoded) > MAX_PATH_BYTES or max(map(len, encoded.split(b"/"))) > MAX_PART_BYTES:
        return "the path is too long"
    return None


def local_path(text: str | os.PathLike[str], setting: str = "") -> Path:
    """Path of a file or folder of this machine, with `~` and `~user` expanded.

    Raises `UserError` that begins with the setting (`run.root`), or else with the path, if none can have it.
    """
    path = os.fspath(text)
    shown = f"{setting}='{shorten(path)}'" if setting else f"'{shorten(path)}'"
    if (problem := check_path(path)) is not None:
        raise UserError(f"{shown}: {problem}")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{shown}: there is no such user, or the user has no home folder") from None
