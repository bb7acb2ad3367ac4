"""State of one actor of the pool: the phase it is in, and the fields that have a value in that phase."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import ray

from impala_mi.actors.worker import ActorProcess
from impala_mi.types import RolloutInfo, Transitions


class Phase(Enum):
    """Activity of an actor."""

    STARTING = "its process was created and has not answered yet"
    IDLE = "alive, with nothing to do"
    PLAYING = "a rollout is in flight"
    UNREACHABLE = "a call could not reach it: it may come back, or its node may be lost"
    BACKING_OFF = "it has no process and is started at `retry_at`"
    GIVEN_UP = "it died too often and is not started again"


NEXT_PHASES = {
    Phase.STARTING: {Phase.IDLE, Phase.UNREACHABLE, Phase.BACKING_OFF, Phase.GIVEN_UP},
    Phase.IDLE: {Phase.PLAYING, Phase.BACKING_OFF, Phase.GIVEN_UP},
    Phase.PLAYING: {Phase.IDLE, Phase.UNREACHABLE, Phase.BACKING_OFF, Phase.GIVEN_UP},
    Phase.UNREACHABLE: {Phase.IDLE, Phase.BACKING_OFF, Phase.GIVEN_UP},
    Phase.BACKING_OFF: {Phase.STARTING},
    Phase.GIVEN_UP: set[Phase](),
}
"""Phases that may follow each phase."""
_FIELDS = {
    Phase.STARTING: {"process", "answer"},
    Phase.IDLE: {"process", "node"},
    Phase.PLAYING: {"process", "node", "answer", "data", "worker"},
    Phase.UNREACHABLE: {"process", "answer"},
    Phase.BACKING_OFF: {"retry_at"},
    Phase.GIVEN_UP: set[str](),
}
"""Fields of `ActorSlot` that have a value in each phase; they are None in the others."""
_ALIVE = {Phase.IDLE, Phase.PLAYING}


@dataclass
class ActorSlot:
    """One actor of the pool, whichever process plays for it."""

    index: int
    starts: int = 0
    """Processes started so far."""
    deaths: int = 0
    """Deaths in a row, without a rollout between them."""
    nodes_lost: int = 0
    """Deaths in a row that were put down to a lost node before the process first answered."""
    phase: Phase = Phase.BACKING_OFF
    since: float = 0.0
    """Time at which the phase began, in seconds of the port's clock."""
    process: ActorProcess | None = None
    node: str | None = None
    """Identifier of the node on which the process lives."""
    answer: ray.ObjectRef[Any] | None = None
    """Answer that is waited for: the node, or while playing the `RolloutInfo`."""
    data: ray.ObjectRef[Transitions] | None = None
    """Transitions of the rollout in flight."""
    worker: Any = None
    """Inference worker that acts for the rollout in flight, if inference is central."""
    retry_at: float | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is known to be alive."""
        return self.phase in _ALIVE

    def enter(self, phase: Phase, now: float, **fields: Any) -> None:
        """Go to another phase, set its fields and clear those that do not belong to it.

        Raises `RuntimeError` if `NEXT_PHASES` does not allow it or a field does not belong to the phase.
        """
        if phase not in NEXT_PHASES[self.phase] or not fields.keys() <= _FIELDS[phase]:
            raise RuntimeError(f"actor {self.index} cannot go from {self.phase.name} to {phase.name} with {fields}")
        self.phase, self.since = phase, now
        for name in set[str]().union(*_FIELDS.values()):
            if name in fields or name not in _FIELDS[phase]:
                setattr(self, name, fields.get(name))


@dataclass(frozen=True)
class RolloutRef:
    """A rollout that an actor delivered."""

    info: RolloutInfo
    data: ray.ObjectRef[Transitions]
