"""Journal of a population, pbt.jsonl: every decision with its inputs and its outcome.

One JSON object per line; `event` is its kind:

- `started`: the settings in force from this line on.
- `born`: a member and its first parameters.
- `decision`: the rankings of all members of the population (`standings`), the seed of the draw, the donor, the
  parameters before and after. `applied` or `abandoned` follows; the latter has the reason and changed nothing.
- `restored`: a member continues from a checkpoint older or newer than the journal, with the parameters in it.
- `died`, `given_up`, `done`, `ended`: ends of members and of the population.
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
from impala_mi.host.files import open_file
from impala_mi.pbt.exploit import Decision, Ranking, decide, make_rule
from impala_mi.pbt.explore import sample
from impala_mi.pbt.settings import Parameters, PbtConfig
from impala_mi.runs.folder import JOURNAL

Line = dict[str, Any]
FITNESS = "pbt/fitness"
"""Metric of members: their fitness as the controller computes it."""


def read(folder: Path) -> list[Line]:
    """Lines of a folder's journal, without a last line that is incomplete; raises `UserError`."""
    file = folder / JOURNAL
    try:
        with open_file(file) as opened:
            lines = opened.read().decode().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{file}: cannot be read: {e}") from None
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(json.loads(line))
            if not isinstance(parsed[-1], dict) or "event" not in parsed[-1]:
                raise UserError(f"{file}, line {number}: has no event")
        except ValueError:
            if number < len(lines):
                raise UserError(f"{file}, line {number}: not valid JSON") from None
    if parsed and parsed[0]["event"] != "started":
        raise UserError(f"{file}: its first line, with the settings, is missing")
    return parsed


@dataclass
class JournaledMember:
    """State of a member according to the journal."""

    parameters: Parameters
    generation: int = 0
    """Generation in force."""
    latest: int = 0
    """Generation of the last decision; greater than `generation` if that was not applied."""
    open: Line | None = None
    """Last decision while its outcome is unknown."""
    copies: int = 0


def fold(members: dict[str, JournaledMember], line: Line) -> None:
    """Apply a line to the members' states."""
    event = line["event"]
    if event == "born":
        members[line["member"]] = JournaledMember(dict(line["parameters"]))
    elif event == "decision":
        member = members[line["member"]]
        member.latest, member.open = line["generation"], line
    elif event in ("applied", "abandoned", "restored"):
        member = members[line["member"]]
        if event == "applied" and member.open is not None:
            member.parameters, member.generation = dict(member.open["after"]), line["generation"]
            member.copies += line["copied"]
        elif event == "restored":
            member.parameters, member.generation = dict(line["parameters"]), line["generation"]
        member.open = None


class Journal:
    """Writer of the journal: a line is on the disk before its event takes effect.

    Args:
        folder: folder of the population; an incomplete last line of an earlier process is dropped.
    """

    def __init__(self, folder: Path) -> None:
        lines = read(folder) if (folder / JOURNAL).exists() else []
        self.members: dict[str, JournaledMember] = {}
        """States of the members after the lines so far."""
        for line in lines:
            fold(self.members, line)
        self._file = open(folder / JOURNAL, "a+b")  # noqa: SIM115
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def write(self, event: str, **details: Any) -> None:
        """Append a line."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **details}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        fold(self.members, line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def initial_parameters(settings: PbtConfig, seed: Sequence[int]) -> Parameters:
    """First hyperparameters of a member."""
    return sample(settings.space, np.random.default_rng(np.random.SeedSequence(list(seed))))


def decision_line(
    me: Ranking, generation: int, seed: Sequence[int], rankings: Sequence[Ranking], decision: Decision
) -> Line:
    """Details of a `decision` line."""
    return {
        "member": me.member,
        "generation": generation,
        "seed": list(seed),
        "standings": [asdict(ranking) for ranking in rankings],
        **asdict(decision),
    }


def disagreements(lines: Sequence[Line]) -> list[Line]:
    """Replay a journal: the `born` and `decision` lines that do not follow from the lines before them."""
    wrong, members, settings, rule = list[Line](), dict[str, JournaledMember](), None, None
    for line in lines:
        if line["event"] == "started":
            settings = PbtConfig.model_validate(line["settings"])
            rule = make_rule(settings)
        elif line["event"] == "born":
            assert settings is not None
            if initial_parameters(settings, line["seed"]) != line["parameters"]:
                wrong.append(line)
        elif line["event"] == "decision":
            assert settings is not None
            assert rule is not None
            rankings = [Ranking(**values) for values in line["standings"]]
            [me] = [ranking for ranking in rankings if ranking.member == line["member"]]
            again = decide(rule, me, [r for r in rankings if r is not me], settings.space, line["seed"])
            same = (again.donor, again.before, again.after) == (line["donor"], line["before"], line["after"])
            if not (same and rule.ready(me) and me.parameters == members[me.member].parameters):
                wrong.append(line)
        fold(members, line)
    return wrong
