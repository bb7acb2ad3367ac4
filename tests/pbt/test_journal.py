"""The journal: read again, folded, replayed."""

import json

import pytest

from impala_mi.errors import UserError
from impala_mi.pbt.exploit import Ranking, decide, make_rule
from impala_mi.pbt.journal import Journal, decision_line, disagreements, initial_parameters, read
from impala_mi.pbt.settings import PbtConfig

KEY = "learner.learning_rate"
CONFIG = PbtConfig.model_validate({
    "members": 2, "burn_in_frames": 0, "ready_episodes": 9, "space": {KEY: {"log_uniform": [1e-5, 1e-1]}}
})  # fmt: skip
FIRST = initial_parameters(CONFIG, [1, 0, 0, 0])


def decided(journal, generation, mine=10.0, other=90.0):
    """Have member a decide."""
    me = Ranking("a", 100, 9, mine, dict(journal.members["a"].parameters))
    others = [Ranking("b", 100, 9, other, {KEY: 0.05})]
    seed = [1, 0, 0, generation]
    decision = decide(make_rule(CONFIG), me, others, CONFIG.space, seed)
    journal.write("decision", **decision_line(me, generation, seed, [me, *others], decision))
    return decision


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path)
    made.write("started", settings=CONFIG.model_dump())
    made.write(
        "born", member="a", population=0, seed=[1, 0, 0, 0], parameters=initial_parameters(CONFIG, [1, 0, 0, 0])
    )
    yield made
    made.close()


def test_what_was_applied_is_what_a_member_has(journal, tmp_path):
    after = decided(journal, 1).after
    assert journal.members["a"].open is not None
    assert journal.members["a"].parameters == FIRST
    journal.write("applied", member="a", generation=1, copied=True, digest="x")
    again = Journal(tmp_path).members["a"]
    assert (again.parameters, again.generation, again.latest, again.copies, again.open) == (after, 1, 1, 1, None)


def test_what_was_abandoned_changed_nothing_and_its_number_is_not_used_again(journal, tmp_path):
    decided(journal, 1)
    journal.write("abandoned", member="a", generation=1, reason="r")
    again = Journal(tmp_path).members["a"]
    assert (again.parameters, again.generation, again.latest, again.open) == (FIRST, 0, 1, None)


def test_a_line_that_was_cut_off_is_dropped(journal, tmp_path):
    file = tmp_path / "pbt.jsonl"
    with file.open("a") as f:
        f.write('{"event": "decision", "mem')
    assert list(Journal(tmp_path).members) == ["a"]
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["started", "born"]


@pytest.mark.parametrize("text", ["[1]\n", '{"a": 1}\n', '{"event": "born"}\n'])
def test_what_is_no_journal_is_refused(tmp_path, text):
    (tmp_path / "pbt.jsonl").write_text(text)
    with pytest.raises(UserError):
        read(tmp_path)


def test_damage_in_the_middle_is_not_passed_over(journal, tmp_path):
    file = tmp_path / "pbt.jsonl"
    file.write_text("nonsense\n" + file.read_text())
    with pytest.raises(UserError, match="line 1"):
        read(tmp_path)


def test_a_replay_reproduces_every_decision(journal, tmp_path):
    for generation in range(1, 30):
        decided(journal, generation, mine=10.0 * (generation % 3))
        journal.write("applied", member="a", generation=generation, copied=True, digest="x")
    lines = read(tmp_path)
    assert {line["donor"] for line in lines if line["event"] == "decision"} == {"b"}
    assert disagreements(lines) == []


@pytest.mark.parametrize(
    "forge",
    [
        lambda line: line | {"after": {KEY: 0.02}},
        lambda line: line | {"donor": None},
        lambda line: line | {"seed": [2, 0, 0, 1]},
        lambda line: line | {"standings": [s | {"episodes": 8} for s in line["standings"]]},
        lambda line: line | {"standings": [s | {"parameters": {KEY: 0.02}} for s in line["standings"]]},
    ],
)
def test_a_replay_finds_what_was_forged(journal, tmp_path, forge):
    decided(journal, 1)
    *before, decision = read(tmp_path)
    assert len(disagreements([*before, forge(decision)])) == 1
    started, born = before
    assert disagreements([started, born | {"parameters": {KEY: 0.02}}]) != []
