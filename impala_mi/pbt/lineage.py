"""Who descends from whom: lives of members from the journal, and ancestries."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from impala_mi.pbt.journal import FITNESS, Line
from impala_mi.pbt.settings import Parameters


@dataclass(frozen=True)
class Turn:
    """A point of a member's life: its birth, or a decision that was applied."""

    env_frames: int
    generation: int
    parameters: Parameters
    donor: str | None = None
    donor_frames: int = 0
    donor_generation: int = 0


@dataclass
class Life:
    """Of a member."""

    member: str
    population: int
    turns: list[Turn]
    frames: list[int] = field(default_factory=list)
    """Where its fitness is known:"""
    fitness: list[float] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Frames at its last record or decision."""
        return max(self.turns[-1].env_frames, self.frames[-1] if self.frames else 0)

    def parameters_at(self, env_frames: int) -> Parameters:
        """That it had."""
        return [turn for turn in self.turns if turn.env_frames <= env_frames or turn is self.turns[0]][
            -1
        ].parameters

    def last_fitness(self) -> float | None:
        """Of the weights that it has: None where it is not known since its last copy."""
        copied_at = max((turn.env_frames for turn in self.turns if turn.donor is not None), default=-1)
        return self.fitness[-1] if self.fitness and self.frames[-1] > copied_at else None


def lives(lines: Sequence[Line], folder: Path) -> dict[str, Life]:
    """Of all members, from the journal and their records in the population's folder."""
    found: dict[str, Life] = {}
    decided: dict[str, Turn] = {}
    for line in lines:
        event = line["event"]
        if event == "born":
            found[line["member"]] = Life(line["member"], line["population"], [Turn(0, 0, line["parameters"])])
        elif event == "decision":
            donor = found.get(line["donor"])
            decided[line["member"]] = _turn(line, 0 if donor is None else donor.turns[-1].generation)
            _take_fitness(found[line["member"]], line)
        elif event == "ended":
            for life in found.values():
                _take_fitness(life, line)
        elif event == "applied":
            found[line["member"]].turns.append(decided.pop(line["member"]))
        elif event == "restored":  # what came later was lost, or was not known to have come
            life, last = found[line["member"]], decided.get(line["member"])
            life.turns = [t for t in life.turns if t.generation <= line["generation"]]
            if last is not None and last.generation == line["generation"]:
                life.turns.append(last)
    for life in found.values():
        _read_fitness(life, folder / "members" / life.member / "metrics.jsonl")
    return found


def _turn(line: Line, donor_generation: int) -> Turn:
    frames = {s["member"]: s["env_frames"] for s in line["standings"]}
    donor = line["donor"]
    return Turn(
        frames[line["member"]], line["generation"], line["after"], donor, frames.get(donor, 0), donor_generation
    )


def _take_fitness(life: Life, line: Line) -> None:
    """As it was before a decision, or at the end."""
    for s in line["standings"]:
        if s["member"] == life.member and s["fitness"] is not None:
            life.frames.append(s["env_frames"])
            life.fitness.append(s["fitness"])


def _read_fitness(life: Life, file: Path) -> None:
    if not file.exists():
        return
    with open(file, encoding="utf-8") as lines:
        for text in lines:
            if FITNESS not in text:
                continue
            try:
                record = json.loads(text)
            except ValueError:
                continue  # it is being written
            life.frames.append(record["env_frames"])
            life.fitness.append(record[FITNESS])
    order = sorted(range(len(life.frames)), key=life.frames.__getitem__)
    life.frames, life.fitness = [life.frames[i] for i in order], [life.fitness[i] for i in order]


@dataclass(frozen=True)
class Stretch:
    """A part of a member's life that an ancestry goes through."""

    member: str
    begin: int
    end: int


def ancestry(lives: dict[str, Life], member: str) -> list[Stretch]:
    """Whose weights a member's last ones were, the oldest first."""
    stretches, end, generation = list[Stretch](), lives[member].end, lives[member].turns[-1].generation
    while True:
        # By generation: frames may stand still between what a member copied and what others copied from it.
        copies = [t for t in lives[member].turns if t.donor is not None and t.generation <= generation]
        stretches.insert(0, Stretch(member, copies[-1].env_frames if copies else 0, end))
        if not copies:
            return stretches
        copy = copies[-1]
        assert copy.donor is not None
        member, end, generation = copy.donor, copy.donor_frames, copy.donor_generation


def schedule(lives: dict[str, Life], path: Sequence[Stretch]) -> list[tuple[int, int, Parameters]]:
    """Frames from, frames to and the parameters in force, along an ancestry."""
    out = []
    for stretch in path:
        life = lives[stretch.member]
        cuts = [t.env_frames for t in life.turns if stretch.begin < t.env_frames < stretch.end]
        edges = [stretch.begin, *cuts, stretch.end]
        out += [(a, b, life.parameters_at(a)) for a, b in itertools.pairwise(edges)]
    return out
