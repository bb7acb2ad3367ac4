"""Modules of the current folder that a cluster gets from the driver, so that every node can import them.

Nodes of a cluster cannot see the driver's current folder. If the configuration names code that is found there, the
driver copies what could be imported from the folder into a package, `PACKAGE`, which Ray's runtime environment
brings to every process of the job, also to those on nodes that join later. `hooks.add_current_folder` finds it
there. Ray puts what it ships in front of all other modules, so the modules lie one folder further down: nothing but
the name of the package is in front.
"""

import contextlib
import importlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from importlib.machinery import PathFinder, all_suffixes
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from impala_mi.config import Config, named_code
from impala_mi.errors import UserError, shorten
from impala_mi.hooks import MODULES, ORIGIN, PACKAGE
from impala_mi.host.tempdirs import tempdir

MIB = 2**20
"""Bytes of a mebibyte."""
MAX_BYTES = 64 * MIB
"""Largest sum of the files that are shipped."""
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable in which `ray job submit` tells the driver the runtime environment of its job."""
WORKING_DIRS = "working_dir_files"
"""Name of the folder in which Ray keeps a job's `--working-dir` on each node."""


class ShippedFile(NamedTuple):
    """A file that is shipped, and its path below the current folder."""

    source: Path
    path: PurePath
    size: int


def files_to_ship(config: Config) -> list[ShippedFile]:
    """Files that a cluster needs for the code that the configuration names; none without RAY_ADDRESS.

    If a module that the configuration names lies in the current folder, they are all modules and packages of that
    folder, with the data files in them. Raises `UserError` if they have more than `MAX_BYTES`, or cannot be read.
    """
    folder = Path.cwd()
    if not os.environ.get("RAY_ADDRESS") or _copied_by_ray(folder):
        return []
    names = {text.partition(":")[0].partition(".")[0] for _, text in named_code(config)}
    own = {name for name in names if _lies_in(folder, name)}
    if not own:
        return []
    try:
        files = list(_importable(folder, own))
    except OSError as e:
        raise _unreadable(folder, e) from None
    total = sum(file.size for file in files)
    if total > MAX_BYTES:
        largest = max(files, key=lambda file: file.size)
        raise UserError(
            f"current folder {str(folder)!r}: its modules and packages have {total / MIB:,.0f} MiB "
            f"({shorten(str(largest.path))!r} alone {largest.size / MIB:,.0f}), but at most {MAX_BYTES // MIB} MiB "
            f"are sent to the nodes of a cluster; install {', '.join(sorted(own))} on every node, or start in a "
            "folder that holds less"
        )
    return files


@contextlib.contextmanager
def runtime_env(config: Config) -> Iterator[dict[str, Any] | None]:
    """Runtime environment for `ray.init` with the code that the cluster needs, or None if it needs none.

    The files that it names are copies, which are removed after the `with` block: Ray has uploaded them by then.
    Raises `UserError` as `files_to_ship` does.
    """
    files = files_to_ship(config)
    if not files:
        yield None
        return
    with tempdir("code") as temporary:
        package = Path(temporary) / PACKAGE
        for file in files:
            target = package / MODULES / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy(file.source, target)
            except OSError as e:
                raise _unreadable(Path.cwd(), e) from None
        (package / ORIGIN).write_bytes(os.fsencode(Path.cwd()))
        yield {"py_modules": [*_submitted().get("py_modules", ()), str(package)]}


def _unreadable(folder: Path, error: OSError) -> UserError:
    return UserError(f"current folder {str(folder)!r}: {error.filename!r} cannot be read: {error.strerror}")


def _submitted() -> dict[str, Any]:
    """Runtime environment of the job, if the driver was started by `ray job submit`."""
    return json.loads(os.environ.get(SUBMITTED, "{}")).get("runtime_env") or {}


def _copied_by_ray(folder: Path) -> bool:
    """Whether a folder is a job's `--working-dir`, of which every process of the job has a copy."""
    return "working_dir" in _submitted() and folder.parent.name == WORKING_DIRS


def _lies_in(folder: Path, name: str) -> bool:
    """Whether `import name` imports a module of the folder: other folders of modules go first."""
    if not name.isidentifier() or name == "impala_mi" or name in sys.builtin_module_names:
        return False
    importlib.invalidate_caches()
    before = [path for path in sys.path if Path(path or ".").resolve() != folder]
    spec = PathFinder.find_spec(name, [*before, str(folder)])
    if spec is None:
        return False
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    return any(Path(place).parent == folder for place in places)


def _importable(folder: Path, own: Collection[str]) -> Iterator[ShippedFile]:
    """Files of the modules and packages that can be imported from a folder; folders in `own` are packages."""
    suffixes = tuple(all_suffixes())
    for entry in sorted(folder.iterdir()):
        name = entry.name.partition(".")[0]
        if not name.isidentifier() or name == "impala_mi":
            continue
        if entry.is_dir():
            if name == entry.name and (name in own or any(entry.glob("*.py"))):
                yield from _files(entry, PurePath(name), (folder.resolve(),))
        elif entry.is_file() and entry.name.endswith(suffixes):
            yield ShippedFile(entry, PurePath(entry.name), entry.stat().st_size)


def _files(folder: Path, path: PurePath, above: tuple[Path, ...]) -> Iterator[ShippedFile]:
    """Files of a package and the packages in it; links are followed, but not to a folder `above`.

    Hidden files, caches, runs and virtual environments are left out.
    """
    real = folder.resolve()
    run = (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()
    if real in above or run or (folder / "pyvenv.cfg").exists():
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _files(entry, path / entry.name, (*above, real))
        elif entry.is_file():
            yield ShippedFile(entry, path / entry.name, entry.stat().st_size)
