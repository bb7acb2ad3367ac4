"""Pauses between retries."""


def backoff(attempt: int, longest_s: float) -> float:
    """Seconds to wait before a retry: 0 before the first, then 1, 2, 4 ... and at most `longest_s`.

    Args:
        attempt: number of failures in a row, at least 1.
        longest_s: upper limit in seconds.
    """
    return 0.0 if attempt <= 1 else min(2.0 ** min(attempt - 2, 30), longest_s)
