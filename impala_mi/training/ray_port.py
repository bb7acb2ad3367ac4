"""The port to remote processes, implemented with Ray and the system's clock."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from impala_mi.errors import TrainingError


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Raise `TrainingError` if Ray has lost the connection to its processes, which it reports as an `OSError`."""
    try:
        yield
    except ray.exceptions.RayError:  # some are an OSError too: a timeout, the error of a remote call
        raise
    except OSError as e:
        raise TrainingError(
            f"a process of Ray that the run needs has ended (the raylet of its node, or the cluster's GCS): {e}"
        ) from None


class RayPort:
    """Implementation of `host.port.Port` by Ray.

    All calls raise `TrainingError` if the connection to Ray is lost.
    """

    def wait(
        self, refs: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        """See `ray.wait`."""
        with _connected():
            return ray.wait(list(refs), num_returns=num_returns, timeout=timeout)

    def get(self, refs: Any, *, timeout: float | None = None) -> Any:
        """See `ray.get`."""
        with _connected():
            return ray.get(refs, timeout=timeout)

    def put(self, value: Any) -> Any:
        """See `ray.put`."""
        with _connected():
            return ray.put(value)

    def alive_nodes(self) -> set[str]:
        """See `Port.alive_nodes`."""
        with _connected():
            return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def now(self) -> float:
        """See `Port.now`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Port.sleep`."""
        time.sleep(seconds)


RAY = RayPort()
