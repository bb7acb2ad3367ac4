"""What suites check of their configuration."""

import difflib
from collections.abc import Sequence

from impala_mi.envs.base import Level
from impala_mi.errors import UserError


def refuse_action_repeat(suite: str, action_repeat: int | None) -> None:
    """Raise `UserError` where a suite whose actions are single steps is asked to repeat them."""
    if action_repeat not in (None, 1):
        raise UserError(f"env.action_repeat={action_repeat}: an action of {suite!r} is one step; leave it out")


def choose_levels(suite: str, known: Sequence[Level], wanted: list[str] | str) -> tuple[Level, ...]:
    """The wanted of the known levels, in the order wanted; raises `UserError` for one that is not known."""
    if wanted == "all":
        return tuple(known)
    by_name = {level.name: level for level in known}
    if not wanted:
        raise UserError(f"env.levels is empty; the levels of {suite!r} are {', '.join(by_name)}")
    for i, name in enumerate(wanted):
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the levels of {suite!r} are {', '.join(by_name)}"
            raise UserError(f"env.levels: no level {name!r}; {hint}")
        if name in wanted[:i]:
            raise UserError(f"env.levels: {name!r} is given twice")
    return tuple(by_name[name] for name in wanted)
