"""The console that every command writes to."""

from collections.abc import Sequence

from rich.console import Console

from impala_mi.errors import UserError

WIDTH = 140


def make_console() -> Console:
    """As wide as the terminal; wide enough for tables where the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def allow_only(overrides: Sequence[str], keys: Sequence[str], hint: str = "") -> None:
    """Raise `UserError` for an override of anything but these keys of env.dmlab."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in [f"env.dmlab.{name}" for name in keys]:
            raise UserError(f"override {override!r}: only env.dmlab.({'|'.join(keys)}) can be set here{hint}")
