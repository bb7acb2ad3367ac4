"""States of studies, looked at."""

from typing import Any

from impala_mi.reproductions.study import Study


def saved(study: Study, name: str) -> dict[str, Any] | None:
    """A part's state."""
    found: list[dict[str, Any]] = []
    study.restore(name, found.append)
    return found[0] if found else None
