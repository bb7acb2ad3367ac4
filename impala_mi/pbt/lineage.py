"""Lineage of a population: histories of members from the journal, and the ancestry of their weights."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from impala_mi.host.files import open_file
from impala_mi.pbt.journal import FITNESS, Line
from impala_mi.pbt.settings import Parameters
from impala_mi.runs.log_lines import parse_record


@dataclass(frozen=True)
class Generation:
    """Start of a member's generation: its initialisation, or a decision that was applied."""

    env_frames: int
    number: int
    parameters: Parameters
    donor: str | None = None
    donor_frames: int = 0
    donor_generation: int = 0


@dataclass
class MemberHistory:
    """Generations and fitness of a member."""

    member: str
    population: int
    generations: list[Generation]
    frames: list[int] = field(default_factory=list)
    """Environment frames of each entry of `fitness`, ascending."""
    fitness: list[float] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Frames at the last record or decision."""
        return max(self.generations[-1].env_frames, self.frames[-1] if self.frames else 0)

    def parameters_at(self, env_frames: int) -> Parameters:
        """Hyperparameters in force after that many frames."""
        first, *later = self.generations
        return [first, *(g for g in later if g.env_frames <= env_frames)][-1].parameters

    def last_fitness(self) -> float | None:
        """Fitness of the current weights, or None if it is not known since the last copy."""
        copied_at = max((g.env_frames for g in self.generations if g.donor is not None), default=-1)
        return self.fitness[-1] if self.fitness and self.frames[-1] > copied_at else None


def member_histories(lines: Sequence[Line], folder: Path) -> dict[str, MemberHistory]:
    """Histories of all members, from the journal and the members' records in the population's folder."""
    histories: dict[str, MemberHistory] = {}
    decided: dict[str, Generation] = {}
    for line in lines:
        event = line["event"]
        if event == "born":
            first = Generation(0, 0, line["parameters"])
            histories[line["member"]] = MemberHistory(line["member"], line["population"], [first])
        elif event == "decision":
            donor = histories.get(line["donor"])
            decided[line["member"]] = _generation(line, 0 if donor is None else donor.generations[-1].number)
            _add_fitness(histories[line["member"]], line)
        elif event == "ended":
            for history in histories.values():
                _add_fitness(history, line)
        elif event == "applied":
            histories[line["member"]].generations.append(decided.pop(line["member"]))
        elif event == "restored":  # later generations were lost, or one was applied without a line
            history, last = histories[line["member"]], decided.get(line["member"])
            history.generations = [g for g in history.generations if g.number <= line["generation"]]
            if last is not None and last.number == line["generation"]:
                history.generations.append(last)
    for history in histories.values():
        _read_fitness(history, folder / "members" / history.member / "metrics.jsonl")
    return histories


def _generation(line: Line, donor_generation: int) -> Generation:
    frames = {ranking["member"]: ranking["env_frames"] for ranking in line["standings"]}
    donor = line["donor"]
    return Generation(
        frames[line["member"]], line["generation"], line["after"], donor, frames.get(donor, 0), donor_generation
    )


def _add_fitness(history: MemberHistory, line: Line) -> None:
    """Add the member's fitness before a decision, or at the end."""
    for ranking in line["standings"]:
        if ranking["member"] == history.member and ranking["fitness"] is not None:
            history.frames.append(ranking["env_frames"])
            history.fitness.append(ranking["fitness"])


def _read_fitness(history: MemberHistory, file: Path) -> None:
    if not file.is_file():
        return
    with open_file(file) as lines:
        for line in lines:
            record = parse_record(line) if FITNESS.encode() in line else None
            if record is None or FITNESS not in record:
                continue  # damaged, or still being written
            history.frames.append(record["env_frames"])
            history.fitness.append(record[FITNESS])
    order = sorted(range(len(history.frames)), key=history.frames.__getitem__)
    history.frames, history.fitness = [history.frames[i] for i in order], [history.fitness[i] for i in order]


@dataclass(frozen=True)
class Stretch:
    """Part of a member's history that an ancestry passes through."""

    member: str
    begin: int
    end: int


def ancestry(histories: dict[str, MemberHistory], member: str) -> list[Stretch]:
    """Stretches through which a member's last weights came about, the oldest first."""
    stretches, end = list[Stretch](), histories[member].end
    number = histories[member].generations[-1].number
    while True:
        # Compared by number: frames may stand still between a member's copy and a copy of that member.
        copies = [g for g in histories[member].generations if g.donor is not None and g.number <= number]
        stretches.insert(0, Stretch(member, copies[-1].env_frames if copies else 0, end))
        if not copies:
            return stretches
        copy = copies[-1]
        assert copy.donor is not None
        member, end, number = copy.donor, copy.donor_frames, copy.donor_generation


def schedule(histories: dict[str, MemberHistory], path: Sequence[Stretch]) -> list[tuple[int, int, Parameters]]:
    """First frame, last frame and the hyperparameters in force, along an ancestry."""
    pieces = []
    for stretch in path:
        history = histories[stretch.member]
        cuts = [g.env_frames for g in history.generations if stretch.begin < g.env_frames < stretch.end]
        edges = [stretch.begin, *cuts, stretch.end]
        pieces += [(a, b, history.parameters_at(a)) for a, b in itertools.pairwise(edges)]
    return pieces
