"""Resources reserved for the learner and the inference workers on the nodes of a Ray cluster."""

from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from impala_mi.config import Config

_RESERVE_S = 30.0
"""Seconds to wait for the resources."""


@dataclass(frozen=True)
class Places:
    """Resources of one run; they stay reserved while a process that uses them is replaced."""

    learner: PlacementGroup
    """A bundle for each rank of the learner, on as few nodes as possible."""
    inference: PlacementGroup | None
    """A bundle for each inference worker, spread over the nodes; None if inference is local."""


def reserve(config: Config, runs: int = 1) -> list[Places]:
    """Reserve resources for a number of runs, before actors are created, which would use them up.

    Waits for them for a while; on a cluster they may come later, with a node.
    """
    learner, inference = config.learner, config.inference
    reserved = [
        Places(
            _group(learner.num_cpus, 1 if learner.num_gpus else 0, learner.size, "PACK"),
            _group(1, inference.num_gpus, inference.workers, "SPREAD")
            if config.actors.inference == "central"
            else None,
        )
        for _ in range(runs)
    ]
    waiting = [p.ready() for places in reserved for p in (places.learner, places.inference) if p is not None]
    ray.wait(waiting, num_returns=len(waiting), timeout=_RESERVE_S)
    return reserved


def _group(cpus: float, gpus: float, count: int, strategy: str) -> PlacementGroup:
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return placement_group([bundle] * count, strategy=strategy)
