"""Errors that a user can fix. The command line prints them as one line."""


class UserError(Exception):
    """Bad input (exit code 2): the message names the setting, its value and the remedy."""


class MissingPackageError(UserError):
    """An optional package is not installed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed; install it with: pip install 'impala-mi[{extra}]'"
        )


class TrainingError(Exception):
    """Training cannot continue (exit code 1); the last good checkpoint is kept."""


class GivenUp(TrainingError):
    """Too many actors or levels have failed for a run to continue; the run still writes a checkpoint."""
