"""What the controller keeps of a member."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from impala_mi.pbt.exploit import Decision
from impala_mi.pbt.worker import Birth, MemberProcess, Status
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder

if TYPE_CHECKING:
    import ray


@dataclass
class Exploit:
    """A decision that is being carried out."""

    decision: Decision
    generation: int
    donor: "MemberState | None"
    since: float
    """Of the step that it is at: giving, or adopting."""
    state: "ray.ObjectRef[dict[str, Any]] | None"
    """The donor's; None where there is none."""
    digest: str | None = None
    adopting: "ray.ObjectRef[None] | None" = None
    """Once that is there."""


@dataclass
class MemberState:
    """A member's place: it runs, waits for its turn or is done."""

    key: str
    population: int
    index: int
    folder: RunFolder
    birth: Birth
    status: Status
    process: MemberProcess | None = None
    asked: "ray.ObjectRef[Status | None] | None" = None
    asked_at: float = 0.0
    began_at: float | None = None
    """When it was first seen to train in this turn, with more frames than before:"""
    frames_before: int = 0
    stopping_since: float | None = None
    exploit: Exploit | None = None
    done: bool = False
    given_up: bool = False
    deaths: int = 0
    """In a row, without a checkpoint between."""
    saved: str = ""
    """Its newest checkpoint when it last started."""
    not_before: float = 0.0

    @property
    def newest(self) -> str:
        """Its newest checkpoint."""
        steps = checkpoints.steps(self.folder.checkpoints)
        return steps[-1].name if steps else ""
