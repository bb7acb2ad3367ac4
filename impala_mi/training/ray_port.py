"""The port to remote processes, implemented with Ray and the system's clock."""

import time
from collections.abc import Sequence
from typing import Any

import ray


class RayPort:
    """Implementation of `host.port.Port` by Ray."""

    def wait(
        self, refs: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        """See `ray.wait`."""
        return ray.wait(list(refs), num_returns=num_returns, timeout=timeout)

    def get(self, refs: Any, *, timeout: float | None = None) -> Any:
        """See `ray.get`."""
        return ray.get(refs, timeout=timeout)

    def put(self, value: Any) -> Any:
        """See `ray.put`."""
        return ray.put(value)

    def alive_nodes(self) -> set[str]:
        """See `Port.alive_nodes`."""
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def now(self) -> float:
        """See `Port.now`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Port.sleep`."""
        time.sleep(seconds)


RAY = RayPort()
