"""The smallest networks that will do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ERROR = 0.1


@dataclass(frozen=True)
class Trained:
    """A network after training."""

    function: str
    size: int
    rate: float
    repetition: int
    parameters: int
    error: float | None
    """Mean squared norm of the error; None where it is not finite."""
    left: int
    """Parameters that are not pruned."""
    error_pruned: float | None


@dataclass(frozen=True)
class Point:
    """What a model needs for a function of one width; of each repetition where there are several values."""

    model: str
    function: str
    width: int
    parameters: list[int | None]
    """None: no network that was trained will do."""
    parameters_mean: list[int | None]
    """By the mean of the squared error over outputs instead of its sum."""
    size: list[int | None]
    left: list[int | None]
    """Parameters that are not pruned."""
    error: list[float | None]
    error_pruned: list[float | None]
    tried: int
    """Parameters of the largest network that was trained."""

    @property
    def needs(self) -> float:
        """Median number of parameters; infinite where most repetitions found no network."""
        return median(self.parameters)

    @property
    def holds_pruned(self) -> bool:
        """Whether every network that was found is still within the error once it is pruned."""
        after = [e for n, e in zip(self.parameters, self.error_pruned, strict=True) if n is not None]
        return all(e is not None and e <= ERROR for e in after)


Curves = dict[tuple[str, str], list[Point]]
"""By model and function, in the order of width."""


def median(values: Sequence[float | None]) -> float:
    """The middle one, of an even number the upper; None counts as infinite."""
    return sorted(math.inf if v is None else float(v) for v in values)[len(values) // 2]


def needed(found: Sequence[Trained], function: str, repetitions: int, scale: float = 1.0) -> list[Trained | None]:
    """Of each repetition, the smallest network of a function whose error times `scale` is within `ERROR`.

    Of a size it is that of the best learning rate; None where no size will do.
    """
    smallest: list[Trained | None] = []
    for repetition in range(repetitions):
        own = [t for t in found if (t.function, t.repetition) == (function, repetition)]
        good = [(t.size, t.error, t) for t in own if t.error is not None and t.error * scale <= ERROR]
        smallest.append(min(good, key=lambda g: g[:2])[2] if good else None)
    return smallest


def point(found: Sequence[Trained], model: str, function: str, width: int, outputs: int, repetitions: int) -> Point:
    """Sum up all networks of one model and width for a function of so many outputs."""
    smallest = needed(found, function, repetitions)
    by_mean = needed(found, function, repetitions, 1 / outputs)

    def of(name: str, some: Sequence[Trained | None] = smallest) -> list[Any]:
        return [None if t is None else getattr(t, name) for t in some]

    return Point(
        model, function, width,
        parameters=of("parameters"), parameters_mean=of("parameters", by_mean), size=of("size"), left=of("left"),
        error=of("error"), error_pruned=of("error_pruned"),
        tried=max(t.parameters for t in found if t.function == function),
    )  # fmt: skip


def curves(points: Sequence[Point]) -> Curves:
    """Points by model and function."""
    found: Curves = {}
    for p in sorted(points, key=lambda p: p.width):
        found.setdefault((p.model, p.function), []).append(p)
    return found
