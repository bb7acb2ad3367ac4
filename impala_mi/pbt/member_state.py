"""State of a member as the controller of its population keeps it: a phase, and the data of that phase."""

import enum
from dataclasses import dataclass
from typing import Any

from impala_mi.pbt.exploit import Decision
from impala_mi.pbt.worker import MemberInit, MemberProcess, Status
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder


class MemberPhase(enum.Enum):
    """Phase of a member; the value is the word that reports use."""

    WAITING = "waits"
    """No process; the member waits for its turn or for its next start after a death."""
    STARTING = "starts"
    """The process exists and has not trained yet."""
    TRAINING = "trains"
    EXPLOITING = "exploits"
    """The member trains and carries out a decision."""
    STOPPING = "stops"
    """The member was told to end its turn with a checkpoint."""
    DONE = "done"
    GIVEN_UP = "given up"

    @property
    def final(self) -> bool:
        """Whether the member never runs again."""
        return not NEXT_PHASES[self]

    @property
    def report(self) -> str:
        """Word for reports: a member with a process "runs"."""
        return self.value if self.final or self is MemberPhase.WAITING else "runs"


_P = MemberPhase
NEXT_PHASES: dict[MemberPhase, frozenset[MemberPhase]] = {
    _P.WAITING: frozenset({_P.STARTING, _P.DONE, _P.GIVEN_UP}),
    _P.STARTING: frozenset({_P.TRAINING, _P.WAITING}),
    _P.TRAINING: frozenset({_P.EXPLOITING, _P.STOPPING, _P.WAITING}),
    _P.EXPLOITING: frozenset({_P.TRAINING, _P.STOPPING, _P.WAITING}),
    _P.STOPPING: frozenset({_P.WAITING}),
    _P.DONE: frozenset(),
    _P.GIVEN_UP: frozenset(),
}
"""Allowed next phases. A phase with a process ends in WAITING, where the last checkpoint decides what follows."""


@dataclass
class Turn:
    """The process of a member, from its start to its end: the phases STARTING to STOPPING."""

    process: MemberProcess
    frames_at_start: int
    checkpoint_at_start: str
    """Name of the newest checkpoint, empty without one."""
    training_since: float = 0.0
    """Time at which the member was first seen to train."""
    poll: Any = None
    """Reference of a status that was asked for and has not been read."""
    polled_at: float = 0.0


@dataclass
class Exploit:
    """A decision that the member is carrying out: the phase EXPLOITING."""

    decision: Decision
    generation: int
    donor: "MemberState | None"
    since: float
    """Time at which the current step began: reading the donor's state, or loading it."""
    state: Any
    """Reference of the donor's learner state, or None without a donor."""
    digest: str | None = None
    loading: Any = None
    """Reference of the call that loads it, once made."""


@dataclass
class MemberState:
    """One member of a population."""

    key: str
    population: int
    index: int
    folder: RunFolder
    init: MemberInit
    status: Status
    phase: MemberPhase = MemberPhase.WAITING
    since: float = 0.0
    """Time at which the phase began."""
    turn: Turn | None = None
    exploit: Exploit | None = None
    deaths: int = 0
    """Deaths in a row without a checkpoint between them."""
    not_before: float = 0.0
    """Time of the next start or decision at the earliest."""

    def enter(
        self, phase: MemberPhase, now: float, turn: Turn | None = None, exploit: Exploit | None = None
    ) -> None:
        """Change the phase, with the data of the new one.

        Raises `RuntimeError` if `NEXT_PHASES` does not allow it or the data is not that of the phase.
        """
        if phase not in NEXT_PHASES[self.phase]:
            raise RuntimeError(f"member {self.key}: {self.phase.name} must not become {phase.name}")
        if (turn is None) is (phase is MemberPhase.STARTING) or (exploit is None) is (
            phase is MemberPhase.EXPLOITING
        ):
            raise RuntimeError(f"member {self.key}: {phase.name} with the data of another phase")
        if phase is MemberPhase.STARTING or phase is MemberPhase.WAITING:
            self.turn = turn
        self.phase, self.since, self.exploit = phase, now, exploit

    @property
    def newest_checkpoint(self) -> str:
        """Name of the newest checkpoint, empty without one."""
        steps = checkpoints.steps(self.folder.checkpoints)
        return steps[-1].name if steps else ""
