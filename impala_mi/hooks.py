"""Hooks: names in the configuration that select an entry of a registry or a user's own `package.module:name`."""

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from impala_mi.code_permission import code_allowed, refusal
from impala_mi.errors import UserError

V = TypeVar("V")

PACKAGE = "impala_mi_working_folder"
"""Package of a process of a cluster that holds the modules of the driver's current folder."""
MODULES, ORIGIN = "modules", "origin"
"""Entries of `PACKAGE`: a folder of modules, and a file with the path of the driver's current folder."""


def load_hook(target: str, key: str) -> Any:
    """User's own object that `package.module:name` names.

    Args:
        target: the hook; its module may also lie in the current folder.
        key: key of the configuration, for the error.

    Raises `UserError` if the module cannot be imported or has no such name, or `--no-code` forbids it.
    """
    if not code_allowed():
        raise UserError(refusal(key, target))
    add_current_folder()
    return import_object(target, f"{key}={target!r}")


def add_current_folder() -> None:
    """Make modules of the current folder importable, behind all others.

    In a process of a cluster that was sent the modules of the driver's current folder, these go before the
    process's own folder. They replace the driver's, which may not exist on this node, or hold something else.
    """
    for package in (Path(path) / PACKAGE for path in sys.path):
        if (package / ORIGIN).is_file():
            origin, modules = os.fsdecode((package / ORIGIN).read_bytes()), str(package / MODULES)
            if modules not in sys.path:
                sys.path[:] = [*(path for path in sys.path if path != origin), modules]
            break
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def import_object(target: str, setting: str) -> Any:
    """Object that `package.module:name` names.

    Raises `UserError` that begins with the setting (`key=value`) if it cannot be imported.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as e:  # a user's module can raise anything
        raise UserError(f"{setting}: cannot be imported: {type(e).__name__}: {e}") from None


def pick(registry: Mapping[str, V], name: str, key: str, kind: type[V]) -> V:
    """Entry of a registry, or the user's own object of that kind as `package.module:name`.

    Raises `UserError` naming the key, the value and the entries.
    """
    if name in registry:
        return registry[name]
    if ":" not in name:
        entries = ", ".join(registry)
        raise UserError(f"{key}={name!r}: no such entry; there are {entries}, or your own as package.module:name")
    hook = load_hook(name, key)
    if not isinstance(hook, kind):
        raise UserError(f"{key}={name!r}: is a {type(hook).__name__}, not a {kind.__name__}")
    return hook
