"""Smallest networks within the error."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ERROR = 0.1
"""Largest mean squared error of a network that has learnt its function."""


@dataclass(frozen=True)
class TrainedNetwork:
    """Result of training one network."""

    function: str
    size: int
    rate: float
    repetition: int
    parameters: int
    error: float | None
    """Mean squared norm of the error; None if it is not finite."""
    unpruned: int
    """Parameters that pruning keeps; `left` in files."""
    error_pruned: float | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "TrainedNetwork":
        """Read a row of a part's results."""
        return cls(**{"unpruned" if key == "left" else key: value for key, value in row.items()})


@dataclass(frozen=True)
class MinParams:
    """Smallest networks of one model for a function of one width; lists have one entry per repetition."""

    model: str
    function: str
    width: int
    parameters: list[int | None]
    """Numbers of parameters; None if no network that was trained is within the error."""
    parameters_mean: list[int | None]
    """Numbers of parameters if the squared error is averaged over outputs instead of summed."""
    size: list[int | None]
    unpruned: list[int | None]
    """Parameters that pruning keeps; `left` in files."""
    error: list[float | None]
    error_pruned: list[float | None]
    tried: int
    """Parameters of the largest network that was trained."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "MinParams":
        """Read a row of results.json."""
        return cls(**{"unpruned" if key == "left" else key: value for key, value in row.items()})

    @property
    def median(self) -> float:
        """Median number of parameters; infinite if most repetitions found no network."""
        return median(self.parameters)

    @property
    def found(self) -> bool:
        """Whether most repetitions found a network."""
        return math.isfinite(self.median)

    @property
    def holds_pruned(self) -> bool:
        """Whether every smallest network is still within the error once it is pruned."""
        after = [e for n, e in zip(self.parameters, self.error_pruned, strict=True) if n is not None]
        return all(e is not None and e <= ERROR for e in after)


Curves = dict[tuple[str, str], list[MinParams]]
"""Smallest networks by model and function, in the order of width."""


def as_row(result: TrainedNetwork | MinParams) -> dict[str, Any]:
    """Fields of a result under the names that files have."""
    return {"left" if key == "unpruned" else key: value for key, value in asdict(result).items()}


def median(values: Sequence[float | None]) -> float:
    """Median, of an even number the upper one; None counts as infinite."""
    return sorted(math.inf if v is None else float(v) for v in values)[len(values) // 2]


def smallest_networks(
    trained: Sequence[TrainedNetwork], function: str, repetitions: int, scale: float = 1.0
) -> list[TrainedNetwork | None]:
    """Find, for each repetition, the smallest network of a function whose error times `scale` is within `ERROR`.

    Among learning rates of a size it is the best one; None if no size is within the error.
    """
    smallest: list[TrainedNetwork | None] = []
    for repetition in range(repetitions):
        own = [t for t in trained if (t.function, t.repetition) == (function, repetition)]
        good = [(t.size, t.error, t) for t in own if t.error is not None and t.error * scale <= ERROR]
        smallest.append(min(good, key=lambda g: g[:2])[2] if good else None)
    return smallest


def min_params(
    trained: Sequence[TrainedNetwork], model: str, function: str, width: int, outputs: int, repetitions: int
) -> MinParams:
    """Summarise all networks of one model and width for a function with that many outputs."""
    smallest = smallest_networks(trained, function, repetitions)
    by_mean = smallest_networks(trained, function, repetitions, 1 / outputs)

    def values(name: str, networks: Sequence[TrainedNetwork | None] = smallest) -> list[Any]:
        return [None if t is None else getattr(t, name) for t in networks]

    names = ("parameters", "size", "unpruned", "error", "error_pruned")
    return MinParams(
        model, function, width, parameters_mean=values("parameters", by_mean),
        tried=max(t.parameters for t in trained if t.function == function),
        **{name: values(name) for name in names},
    )  # fmt: skip


def curves(points: Sequence[MinParams]) -> Curves:
    """Group results by model and function."""
    by: Curves = {}
    for p in sorted(points, key=lambda p: p.width):
        by.setdefault((p.model, p.function), []).append(p)
    return by
