"""Room for processes on the nodes of a Ray cluster."""

from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from impala_mi.config import Config

_PLACE_S = 30.0


@dataclass(frozen=True)
class Places:
    """Of one run; kept when what lives there is replaced."""

    learner: PlacementGroup
    """Of all ranks, on as few nodes as can be."""
    inference: PlacementGroup | None
    """Of the inference workers, where there are some, on many."""


def place(config: Config, runs: int = 1) -> list[Places]:
    """Room for so many runs, to be asked for before there are actors, which would take it.

    Waits a while; on a cluster the room may come later, with a node.
    """
    learner, inference = config.learner, config.inference
    made = [
        Places(
            _reserve(learner.num_cpus, 1 if learner.num_gpus else 0, learner.size, "PACK"),
            _reserve(1, inference.num_gpus, inference.workers, "SPREAD")
            if config.actors.inference == "central"
            else None,
        )
        for _ in range(runs)
    ]
    waiting = [p.ready() for places in made for p in (places.learner, places.inference) if p is not None]
    ray.wait(waiting, num_returns=len(waiting), timeout=_PLACE_S)
    return made


def _reserve(cpus: float, gpus: float, count: int, strategy: str) -> PlacementGroup:
    needs = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return placement_group([needs] * count, strategy=strategy)
