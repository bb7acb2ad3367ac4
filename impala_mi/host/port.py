"""Port: the calls through which the driver waits for remote processes and tells the time.

`training.ray_port` implements it with Ray; tests implement it with fakes and a clock of their own. A reference
stands for the result of a remote call. Errors are those of `ray.exceptions`.
"""

from collections.abc import Sequence
from typing import Any, Protocol


class Port(Protocol):
    """Remote results, the nodes of the cluster, and the clock."""

    def wait(
        self, refs: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        """References whose results exist, and the rest.

        Returns as soon as `num_returns` results exist, or after `timeout` seconds.
        """

    def get(self, refs: Any, *, timeout: float | None = None) -> Any:
        """Result of a reference, or results of a list of them; raises the error of a call that failed."""

    def put(self, value: Any) -> Any:
        """Store a value and return its reference."""

    def alive_nodes(self) -> set[str]:
        """Identifiers of the nodes that are alive."""

    def now(self) -> float:
        """Monotonic time in seconds."""

    def sleep(self, seconds: float) -> None:
        """Pause this thread."""
