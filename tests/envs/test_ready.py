import os
import select
import threading
import time
from collections.abc import Iterator

import pytest

from impala_mi.envs.ready import as_ready


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(5)]
    yield made
    for end in {end for pipe in made for end in pipe}:
        os.close(end)


def test_an_outcome_arrives_or_not(pipes):
    soon, late = time.monotonic() + 0.05, time.monotonic() + 60
    os.write(pipes[0][1], b"x")
    os.write(pipes[3][1], b"x")
    os.close(pipes[3][1])
    pipes[3] = (pipes[3][0],) * 2
    waits = {10: (pipes[0][0], late), 11: None, 12: (pipes[2][0], soon), 13: (pipes[3][0], late)}
    start = time.monotonic()
    # The fourth has an outcome, but its writer has ended: that takes a while to look into.
    first, *others, last = as_ready(waits)
    assert (first, set(others), last) == ((11, False), {(10, True), (13, False)}, (12, False))
    assert time.monotonic() - start < 10
    assert list(as_ready({})) == []


def test_what_is_ready_is_not_kept_from_the_caller_by_a_game_that_takes_long(pipes):
    start = time.monotonic()
    os.write(pipes[0][1], b"x")
    waiting = as_ready({i: (read, start + 600) for i, (read, _) in enumerate(pipes)})
    assert next(waiting) == (0, True)
    assert time.monotonic() - start < 10
    for _, write in pipes[1:]:
        os.write(write, b"x")
    assert sorted(waiting) == [(i, True) for i in range(1, 5)]


def test_games_that_end_in_the_order_of_their_beginning_wake_the_actor_once(pipes, monkeypatch):
    calls = []

    class Counting:
        def __init__(self) -> None:
            self.poll_object = made()

        def poll(self, timeout):
            calls.append(timeout)
            return self.poll_object.poll(timeout)

        def __getattr__(self, name):
            return getattr(self.poll_object, name)

    made = select.poll
    monkeypatch.setattr("impala_mi.envs.ready.select.poll", Counting)
    monkeypatch.setattr("impala_mi.envs.ready.TOGETHER_S", 10)

    def end() -> None:
        for _, write in pipes:
            time.sleep(0.01)
            os.write(write, b"x")

    thread = threading.Thread(target=end)
    thread.start()
    ended = list(as_ready({i: (read, time.monotonic() + 60) for i, (read, _) in enumerate(pipes)}))
    thread.join()
    assert sorted(ended) == [(i, True) for i in range(5)]
    assert len(calls) == 2, "one wait, and one look at who has ended"
