"""Checks of the configuration that suites have in common."""

import difflib
from collections.abc import Sequence

from impala_mi.envs.base import Level
from impala_mi.errors import UserError


def refuse_action_repeat(suite: str, action_repeat: int | None) -> None:
    """Raise `UserError` if actions shall be repeated in a suite whose actions are single steps."""
    if action_repeat not in (None, 1):
        raise UserError(f"env.action_repeat={action_repeat}: an action of {suite!r} is one step; leave it out")


def choose_levels(suite: str, known: Sequence[Level], names: list[str] | str) -> tuple[Level, ...]:
    """The known levels with these names, in their order, or "all"; raises `UserError` for an unknown name."""
    if names == "all":
        return tuple(known)
    by_name = {level.name: level for level in known}
    if not names:
        raise UserError(f"env.levels is empty; the levels of {suite!r} are {', '.join(by_name)}")
    for i, name in enumerate(names):
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the levels of {suite!r} are {', '.join(by_name)}"
            raise UserError(f"env.levels: no level {name!r}; {hint}")
        if name in names[:i]:
            raise UserError(f"env.levels: {name!r} is given twice")
    return tuple(by_name[name] for name in names)
