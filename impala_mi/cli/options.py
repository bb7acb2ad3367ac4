"""Options and arguments that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from impala_mi.code_permission import allow_code

MAX_EPISODES = 10**6
"""Most episodes of a level that one command plays."""
MAX_SEED = 2**31 - 1
"""Largest seed, as of the configuration."""

F = TypeVar("F", bound=Callable[..., Any])

OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
GREEDY = click.option(
    "--greedy", is_flag=True, help="Take the policy's mode (most likely action) instead of a sample."
)


NO_CODE = click.Option(
    ["--no-code"],
    is_flag=True,
    expose_value=False,
    callback=lambda context, option, value: allow_code(not value),
    help="Refuse a configuration that names code (package.module:name), for one that you do not trust.",
)


def compose(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator out of several; help lists their options in this order."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def start_options(auto: str) -> Callable[[F], F]:
    """CONFIG, overrides, --resume and --print-config.

    Args:
        auto: effect of `--resume auto`, for the help.
    """
    resume = click.option(
        "--resume",
        "resume_mode",
        type=click.Choice(["never", "auto"]),
        default="never",
        show_default=True,
        help=f"auto: {auto}, for jobs that are resubmitted.",
    )
    print_config = click.option("--print-config", is_flag=True, help="Print the whole configuration and exit.")
    return compose(click.argument("config"), OVERRIDES, resume, print_config)


def agent_options(
    episodes: int, per: str = "level", min_episodes: int = 1, several: bool = False
) -> Callable[[F], F]:
    """RUN, overrides, --episodes, --checkpoint and --seed of commands that play a run's agent.

    Args:
        episodes: default number of episodes.
        per: unit that the episodes are counted for, for the help.
        min_episodes: smallest number of episodes.
        several: accept several checkpoints, as `checkpoints`.
    """
    number = click.IntRange(min_episodes, MAX_EPISODES)
    explanation = "last, best, or the name of a checkpoint"
    if several:
        checkpoint = click.option(
            "--checkpoint", "checkpoints", multiple=True, default=("last",), show_default=True,
            help=f"{explanation}; several are drawn side by side.",
        )  # fmt: skip
    else:
        checkpoint = click.option("--checkpoint", default="last", show_default=True, help=f"{explanation}.")
    return compose(
        click.argument("run"),
        OVERRIDES,
        click.option("--episodes", type=number, default=episodes, show_default=True, help=f"Episodes per {per}."),
        checkpoint,
        click.option(
            "--seed", type=click.IntRange(0, MAX_SEED), default=1, show_default=True, help="Seed of the episodes."
        ),
    )
