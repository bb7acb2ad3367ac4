import functools
import threading

import pytest

from impala_mi.envs.step_pool import StepPool


@pytest.fixture
def pool():
    made = StepPool(3)
    yield made
    made.close()
    assert not any(thread.is_alive() for thread in made._threads)


def test_tasks_run_at_once_and_repeatedly(pool):
    meet = threading.Barrier(3, timeout=10)
    for _ in range(100):
        pool.begin([meet.wait] * 3)
        pool.finish()
    results = []
    pool.begin([functools.partial(results.append, i) for i in range(20)])
    pool.finish()
    assert sorted(results) == list(range(20))


def test_an_error_is_raised_once_all_are_done(pool):
    others = []

    def fails():
        raise ValueError("a game")

    for _ in range(2):
        pool.begin([fails, *[functools.partial(others.append, 1)] * 8])
        with pytest.raises(ValueError, match="a game"):
            pool.finish()
    assert len(others) == 16
    pool.begin([functools.partial(others.append, 1)])
    pool.finish()  # the error was raised once only


def test_closing_drops_tasks_that_wait():
    pool, go, done = StepPool(1), threading.Event(), []
    pool.begin([functools.partial(go.wait, 10), *[functools.partial(done.append, 1)] * 5])
    threading.Timer(0.2, go.set).start()
    pool.close()
    assert done == []
