"""What `train` and `pbt` take alike."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def starting(auto: str) -> Callable[[F], F]:
    """CONFIG, its overrides, --resume, of which `auto` is explained, and --print-config."""

    def decorate(function: F) -> F:
        for decorator in (
            click.option("--print-config", is_flag=True, help="Print the whole configuration and exit."),
            click.option(
                "--resume",
                "again",
                type=click.Choice(["never", "auto"]),
                default="never",
                show_default=True,
                help=f"auto: {auto}, for jobs that are resubmitted.",
            ),
            click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
            click.argument("config"),
        ):
            function = decorator(function)
        return function

    return decorate
