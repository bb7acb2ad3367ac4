"""Console output and output folders that several commands share."""

import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from impala_mi.errors import UserError, printable, shorten
from impala_mi.host.files import missing_folders, remove_if_empty
from impala_mi.paths import local_path

WIDTH = 140
"""Width in characters if the output is not a terminal; enough for all tables."""


class SafeConsole(Console):
    """Console that shows texts as they are: no markup, and control characters and direction marks escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Text of a string, such as the cell of a table."""
        return super().render_str(printable(text, keep="\n"), **options)


def make_console() -> Console:
    """Console as wide as the terminal, or `WIDTH` characters wide if the output is a file."""
    console = SafeConsole(markup=False, emoji=False)
    return console if console.is_terminal else SafeConsole(markup=False, emoji=False, width=WIDTH)


def make_table(headings: Sequence[str], left: Collection[str] = (), **style: Any) -> Table:
    """Table with these columns: the first and those in `left` are flush left, the others flush right.

    Args:
        headings: headings of the columns.
        left: headings of columns with text.
        style: arguments of `rich.table.Table`.
    """
    table = Table(**style)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 or heading in left else "right")
    return table


def list_written(console: Console, files: Iterable[Path]) -> None:
    """Print the files that a command wrote."""
    for file in files:
        console.print(f"wrote {file}", soft_wrap=True)


def check_writable(folder: Path, hint: str = "") -> Path:
    """Make a folder, before anything expensive is done; raises `UserError` if files cannot be written to it.

    Folders that are still empty when the command ends, because it was refused or failed, are removed again.
    """
    folder = local_path(folder)
    try:
        made = missing_folders(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if made and (context := click.get_current_context(silent=True)) is not None:
            context.call_on_close(lambda: remove_if_empty(made))
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise UserError(f"'{shorten(str(folder))}': cannot be written to: {e.strerror}{hint}") from None
    return folder
