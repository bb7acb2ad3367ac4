"""Deaths of remote processes: how many are allowed in an hour, and what they died of."""

import time
from collections import deque
from collections.abc import Callable

from impala_mi.errors import GivenUp

ReportEvent = Callable[..., None]
"""Takes the kind of an event, such as a death, and details by name."""
BUDGET_S = 3600.0
"""Period in seconds over which a restart budget counts."""


class RestartBudget:
    """Deaths that are allowed in an hour.

    Args:
        limit: number of deaths.
        key: configuration key of the limit, for the message.
        now: clock in seconds.
    """

    def __init__(self, limit: int, key: str, now: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._key, self._now, self._times = limit, key, now, deque[float]()
        self.total = 0

    def spend(self, reason: str) -> None:
        """Count one death; raises `GivenUp` if it exceeds the limit."""
        now = self._now()
        while self._times and now - self._times[0] > BUDGET_S:
            self._times.popleft()
        self._times.append(now)
        self.total += 1
        if len(self._times) > self._limit:
            raise GivenUp(
                f"{len(self._times)} deaths in an hour, more than {self._key}={self._limit}; the last: {reason}"
            )


def reason_of(error: Exception) -> str:
    """Last line of an error's message, or of its cause's."""
    lines = str(getattr(error, "cause", None) or error).strip().splitlines()
    return lines[-1] if lines else repr(error)
