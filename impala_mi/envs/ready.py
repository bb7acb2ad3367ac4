"""Waiting for many games in processes of their own, with few wake-ups."""

import math
import select
import time
from collections.abc import Iterator, Mapping

TOGETHER_S = 0.1
"""Longest wait for the game whose step was begun last. It usually ends last, and then all are ready: an actor that
wakes up for each game interrupts games that work."""
_MAX_MS = 2**31 - 1


def as_ready(awaited: Mapping[int, tuple[int, float] | None]) -> Iterator[tuple[int, bool]]:
    """Keys in the order in which there is something to do, and whether an outcome has arrived.

    Args:
        awaited: what `RemoteGame.awaited` returns, by key, in the order in which steps were begun. No outcome has
            arrived where it need not be awaited, the process has ended, or the deadline has passed.
    """
    keys, deadlines = {}, {}
    for key, wait in awaited.items():
        if wait is None:
            yield key, False
        else:
            keys[wait[0]], deadlines[wait[0]] = key, wait[1]
    poll = select.poll()
    for i, descriptor in enumerate(reversed(keys)):
        poll.register(descriptor, select.POLLIN)
        if i == 0 and len(keys) > 1:
            poll.poll(1e3 * TOGETHER_S)
    while keys:
        seconds = max(0.0, min(deadlines.values()) - time.monotonic())
        events = poll.poll(min(math.ceil(1e3 * seconds), _MAX_MS))
        for descriptor, event in events:
            poll.unregister(descriptor)
            del deadlines[descriptor]
            yield keys.pop(descriptor), event == select.POLLIN
        if not events:
            now = time.monotonic()
            for descriptor in [d for d, deadline in deadlines.items() if deadline <= now]:
                poll.unregister(descriptor)
                del deadlines[descriptor]
                yield keys.pop(descriptor), False
