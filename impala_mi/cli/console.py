"""The console that every command writes to."""

from rich.console import Console

WIDTH = 140


def make_console() -> Console:
    """As wide as the terminal; wide enough for tables where the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)
