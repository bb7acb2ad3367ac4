"""Errors that a user can mend. The command line prints them as one line and exits with 2."""


class UserError(Exception):
    """Bad input: the message names what is wrong, its value, and the remedy."""


class MissingPackageError(UserError):
    """An optional package is not installed; the message says which extra brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed; install it with: pip install 'impala-mi[{extra}]'"
        )


class TrainingError(Exception):
    """Training cannot go on (exit code 1); the last good checkpoint is kept."""


class GivenUp(TrainingError):
    """Too much has died for a run to go on; what was learnt is worth a checkpoint."""
