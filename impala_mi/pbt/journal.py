"""pbt.jsonl: every decision of a population with its inputs, and what became of it.

One JSON object a line. `started`: the settings in force from here. `born`: a member and its first parameters.
`decision`: what all members of its population stood at (`standings`), the seed of the draw, the donor, the
parameters before and after. Then `applied`, or `abandoned` with the reason: nothing was changed. `restored`: a
member goes on from a checkpoint older or newer than the journal's last word, with the parameters that are in it.
Others tell of deaths and ends.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from impala_mi.errors import UserError
from impala_mi.pbt.exploit import Decision, Standing, decide, make_rule
from impala_mi.pbt.explore import sample
from impala_mi.pbt.settings import Parameters, PbtConfig
from impala_mi.runs.folder import JOURNAL

Line = dict[str, Any]
FITNESS = "pbt/fitness"
"""In the records of members, as the controller sees it."""


def read(folder: Path) -> list[Line]:
    """All lines; a last one that was not written to its end is left out. Raises `UserError`."""
    file = folder / JOURNAL
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{file}: cannot be read: {e}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
            if not isinstance(found[-1], dict) or "event" not in found[-1]:
                raise UserError(f"{file}, line {number}: tells of no event")
        except ValueError:
            if number < len(lines):
                raise UserError(f"{file}, line {number}: not valid JSON") from None
    if found and found[0]["event"] != "started":
        raise UserError(f"{file}: its first line, with the settings, is missing")
    return found


@dataclass
class History:
    """Of a member, as the journal tells it."""

    parameters: Parameters
    generation: int = 0
    """That it has."""
    latest: int = 0
    """The last that was decided on; greater where that was not applied."""
    open: Line | None = None
    """A decision of which nothing is known yet."""
    copies: int = 0


def take(histories: dict[str, History], line: Line) -> None:
    """What a line changes."""
    event = line["event"]
    if event == "born":
        histories[line["member"]] = History(dict(line["parameters"]))
    elif event == "decision":
        one = histories[line["member"]]
        one.latest, one.open = line["generation"], line
    elif event in ("applied", "abandoned", "restored"):
        one = histories[line["member"]]
        if event == "applied" and one.open is not None:
            one.parameters, one.generation = dict(one.open["after"]), line["generation"]
            one.copies += line["copied"]
        elif event == "restored":
            one.parameters, one.generation = dict(line["parameters"]), line["generation"]
        one.open = None


class Journal:
    """Writes lines, each on the disk before what it tells of happens.

    Args:
        folder: of the population; a line that an earlier process did not finish is dropped.
    """

    def __init__(self, folder: Path) -> None:
        lines = read(folder) if (folder / JOURNAL).exists() else []
        self.members: dict[str, History] = {}
        """As the lines so far tell of them."""
        for line in lines:
            take(self.members, line)
        self._file = open(folder / JOURNAL, "a+b")  # noqa: SIM115
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def write(self, event: str, **details: Any) -> None:
        """Append a line."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **details}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        take(self.members, line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def birth(settings: PbtConfig, seed: Sequence[int]) -> Parameters:
    """A member's first parameters."""
    return sample(settings.space, np.random.default_rng(np.random.SeedSequence(list(seed))))


def decision_line(
    me: Standing, generation: int, seed: Sequence[int], standings: Sequence[Standing], decision: Decision
) -> Line:
    """What the journal keeps of a decision."""
    return {
        "member": me.member,
        "generation": generation,
        "seed": list(seed),
        "standings": [asdict(s) for s in standings],
        **asdict(decision),
    }


def disagreements(lines: Sequence[Line]) -> list[Line]:
    """Births and decisions that do not follow from what came before them, with the settings in force."""
    found, members, settings, rule = list[Line](), dict[str, History](), None, None
    for line in lines:
        if line["event"] == "started":
            settings = PbtConfig.model_validate(line["settings"])
            rule = make_rule(settings)
        elif line["event"] == "born":
            assert settings is not None
            if birth(settings, line["seed"]) != line["parameters"]:
                found.append(line)
        elif line["event"] == "decision":
            assert settings is not None
            assert rule is not None
            standings = [Standing(**s) for s in line["standings"]]
            [me] = [s for s in standings if s.member == line["member"]]
            again = decide(rule, me, [s for s in standings if s is not me], settings.space, line["seed"])
            same = (again.donor, again.before, again.after) == (line["donor"], line["before"], line["after"])
            if not (same and rule.ready(me) and me.parameters == members[me.member].parameters):
                found.append(line)
        take(members, line)
    return found
