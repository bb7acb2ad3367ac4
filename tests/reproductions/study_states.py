"""Saved states of studies."""

from typing import Any

from impala_mi.reproductions.study import Study


def saved_state(study: Study, name: str) -> dict[str, Any] | None:
    """Last saved state of a part, or None."""
    states: list[dict[str, Any]] = []
    study.restore(name, states.append)
    return states[0] if states else None
