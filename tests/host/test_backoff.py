from impala_mi.host.backoff import backoff


def test_the_pause_doubles_from_the_second_failure_up_to_a_limit():
    assert [backoff(attempt, 5.0) for attempt in range(1, 7)] == [0, 1, 2, 4, 5, 5]
    assert backoff(10_000, 60.0) == 60.0
