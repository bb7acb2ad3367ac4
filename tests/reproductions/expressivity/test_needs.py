"""The smallest networks."""

from impala_mi.reproductions.expressivity.needs import Trained, needed


def trained(size: int, repetition: int, error: float | None, rate: float = 0.1) -> Trained:
    return Trained("f", size, rate, repetition, 10 * size, error, 5, error)


def test_the_smallest_network_within_the_error() -> None:
    found = [
        trained(1, 0, 0.2), trained(2, 0, 0.09), trained(2, 0, 0.05, 0.001), trained(3, 0, 0.01),
        trained(1, 1, None), trained(2, 1, 0.11), trained(3, 1, 0.1),
    ]  # fmt: skip
    assert needed(found, "f", 3) == [found[2], found[6], None]
    assert [t and t.size for t in needed(found, "f", 2, scale=0.5)] == [1, 2]
