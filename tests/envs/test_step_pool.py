import functools
import threading

import pytest

from impala_mi.envs.step_pool import StepPool


@pytest.fixture
def crew():
    made = StepPool(3)
    yield made
    made.close()
    assert not any(thread.is_alive() for thread in made._threads)


def test_pieces_are_done_at_once_and_again(crew):
    meet = threading.Barrier(3, timeout=10)
    for _ in range(100):
        crew.begin([meet.wait] * 3)
        crew.finish()
    seen = []
    crew.begin([functools.partial(seen.append, i) for i in range(20)])
    crew.finish()
    assert sorted(seen) == list(range(20))


def test_an_error_is_raised_once_all_are_done(crew):
    others = []

    def fails():
        raise ValueError("a game")

    for _ in range(2):
        crew.begin([fails, *[functools.partial(others.append, 1)] * 8])
        with pytest.raises(ValueError, match="a game"):
            crew.finish()
    assert len(others) == 16
    crew.begin([functools.partial(others.append, 1)])
    crew.finish()  # the error has gone with its step


def test_closing_does_not_begin_what_waits():
    crew, go, done = StepPool(1), threading.Event(), []
    crew.begin([functools.partial(go.wait, 10), *[functools.partial(done.append, 1)] * 5])
    threading.Timer(0.2, go.set).start()
    crew.close()
    assert done == []
