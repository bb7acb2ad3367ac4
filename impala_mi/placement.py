"""Room for processes on the nodes of a Ray cluster."""

from typing import Literal

import ray
from ray.util.placement_group import PlacementGroup, placement_group

_PLACE_S = 30.0


def reserve(cpus: float, gpus: float, count: int, strategy: Literal["PACK", "SPREAD"]) -> PlacementGroup:
    """Room for `count` processes, to be asked for before there are actors, which would take it.

    Waits a while; on a cluster the room may come later, with a node.
    """
    needs = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    placement = placement_group([needs] * count, strategy=strategy)
    ray.wait([placement.ready()], timeout=_PLACE_S)
    return placement
