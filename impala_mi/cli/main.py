"""Command line `impala-mi`: its commands, and the exit codes of errors."""

import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence

import click

from impala_mi import __version__
from impala_mi.cli.options import NO_CODE
from impala_mi.errors import TrainingError, UserError, printable, shorten
from impala_mi.host.signals import StopSignal, interrupt
from impala_mi.redaction import redact

COMMANDS = {
    "train": "Train an agent.",
    "pbt": "Train a population whose members adapt their hyperparameters.",
    "resume": "Continue a run or a population from its last checkpoints.",
    "eval": "Score a run's agent over complete episodes.",
    "watch": "Watch a run during training.",
    "report": "Write a report on runs, or on a population.",
    "tsne": "Draw the t-SNE of a run's generated weights.",
    "units": "Show each level's drop without single units of a run's agent.",
    "video": "Film a run's agent with its policy and value.",
    "reproduce": "Repeat an experiment of the paper.",
    "cache": "Compile the maps of DMLab-30 ahead of training.",
    "levels": "List the levels of a suite and their scores.",
    "bench": "Measure the speed of training and of its parts.",
    "doctor": "Check this machine and its packages.",
}
"""Commands and their one-line help."""


class _Commands(click.Group):
    """Group that imports the module of a command when it is called, so --help does not wait for PyTorch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = "evaluate" if cmd_name == "eval" else cmd_name
        command: click.Command = importlib.import_module(f"impala_mi.cli.{module}").command
        for each in command.commands.values() if isinstance(command, click.Group) else [command]:
            if NO_CODE not in each.params:
                each.params.append(NO_CODE)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Train one agent on many tasks: IMPALA with multiplicative interactions.

    Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted (training: after a checkpoint).
    """


MAX_MESSAGE = 3000
"""Characters of an error that are printed."""


def one_line(error: Exception) -> str:
    """Message of an error in one line of bounded length."""
    return shorten(" ".join(str(error).splitlines()) or type(error).__name__, MAX_MESSAGE)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command, given by the arguments of this process unless others are, and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"warning: {printable(redact(str(message)))}\n"
    for number in StopSignal.SIGNALS:  # SIGTERM acts like Ctrl-C: games are closed
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, interrupt)
    try:
        code = cli.main(None if args is None else list(args), standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as e:
        click.echo(f"error: {one_line(e)}", err=True)
        sys.exit(2)
    except (TrainingError, MemoryError) as e:
        click.echo(f"failed: {one_line(e)}", err=True)
        sys.exit(1)
    except click.ClickException as e:
        usage = io.StringIO()
        e.show(file=usage)
        click.echo(redact(usage.getvalue()), err=True, nl=False)
        sys.exit(e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output has exited, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:  # a file that cannot be read or written, or no descriptor or process is left
        click.echo(f"failed: {one_line(e)}", err=True)
        sys.exit(1)
