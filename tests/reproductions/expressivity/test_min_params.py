"""Smallest networks within the error."""

from impala_mi.reproductions.expressivity.min_params import TrainedNetwork, as_row, smallest_networks


def network(size: int, repetition: int, error: float | None, rate: float = 0.1) -> TrainedNetwork:
    return TrainedNetwork("f", size, rate, repetition, 10 * size, error, 5, error)


def test_the_smallest_network_within_the_error() -> None:
    trained = [
        network(1, 0, 0.2), network(2, 0, 0.09), network(2, 0, 0.05, 0.001), network(3, 0, 0.01),
        network(1, 1, None), network(2, 1, 0.11), network(3, 1, 0.1),
    ]  # fmt: skip
    assert smallest_networks(trained, "f", 3) == [trained[2], trained[6], None]
    assert [t and t.size for t in smallest_networks(trained, "f", 2, scale=0.5)] == [1, 2]


def test_rows_in_files_keep_their_keys() -> None:
    row = as_row(network(1, 0, 0.2))
    assert list(row) == [
        "function", "size", "rate", "repetition", "parameters", "error", "left", "error_pruned"
    ]  # fmt: skip
    assert TrainedNetwork.from_row(row) == network(1, 0, 0.2)
