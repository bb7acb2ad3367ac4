"""Who descends from whom."""

import json

import numpy as np
import pytest

from impala_mi.analysis.stats import mean_interval
from impala_mi.pbt.lineage import Stretch, ancestry, member_histories, schedule
from impala_mi.pbt.pictures import best, draw, draw_populations, over_populations, page

KEY = "learner.learning_rate"


def decision(member, generation, frames, donor, rate):
    standings = [
        {"member": name, "env_frames": at, "episodes": 9, "fitness": fitness, "parameters": {KEY: 1.0}}
        for name, (at, fitness) in frames.items()
    ]
    return {
        "event": "decision", "member": member, "generation": generation, "standings": standings, "donor": donor,
        "before": {KEY: 1.0}, "after": {KEY: rate},
    }  # fmt: skip


def applied(member, generation):
    return {"event": "applied", "member": member, "generation": generation, "copied": True}


@pytest.fixture
def lines():
    """b copies a at 100 (a at 120), a changes at 200, c copies b at 300 (b at 310); then c loses a copy of a."""
    born = [
        {"event": "born", "member": m, "population": 0, "parameters": {KEY: r}}
        for m, r in (("a", 1.0), ("b", 2.0), ("c", 3.0))
    ]
    at = {"a": (120, 9.0), "b": (100, 1.0), "c": (90, None)}
    later = {"a": (320, 9.0), "b": (310, 8.0), "c": (300, 2.0)}
    return [
        *born,
        decision("b", 1, at, "a", 1.2), applied("b", 1),
        decision("a", 1, at | {"a": (200, 9.0)}, None, 0.8), applied("a", 1),
        decision("c", 1, later, "b", 1.4), applied("c", 1),
        decision("c", 2, later | {"c": (400, 2.0)}, "a", 7.0), applied("c", 2),
        {"event": "restored", "member": "c", "generation": 1, "parameters": {KEY: 1.4}},
        decision("c", 3, later | {"c": (420, 2.0)}, "a", 7.0),
        {"event": "abandoned", "member": "c", "generation": 3, "reason": "r"},
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for member, last in (("a", 5.0), ("b", 6.0), ("c", 7.0)):
        at = tmp_path / "members" / member
        at.mkdir(parents=True)
        records = [{"env_frames": f, "pbt/fitness": last * f / 500} for f in range(0, 501, 50)]
        text = "\n".join(json.dumps(r) for r in [*records, {"env_frames": 510}])
        (at / "metrics.jsonl").write_text(text + '\n{"env_fra')  # the last is being written
    return tmp_path


def test_an_ancestry_goes_from_donor_to_donor(lines, folder):
    found = member_histories(lines, folder)
    assert best(found) == "c"
    assert ancestry(found, "c") == [Stretch("a", 0, 120), Stretch("b", 100, 310), Stretch("c", 300, 500)]
    assert ancestry(found, "a") == [Stretch("a", 0, 500)]


def test_a_schedule_follows_the_ancestry(lines, folder):
    found = member_histories(lines, folder)
    rates = [(a, b, p[KEY]) for a, b, p in schedule(found, ancestry(found, "c"))]
    assert rates == [(0, 120, 1.0), (100, 310, 1.2), (300, 500, 1.4)]
    assert [(a, b, p[KEY]) for a, b, p in schedule(found, ancestry(found, "a"))] == [(0, 200, 1.0), (200, 500, 0.8)]


def test_what_was_lost_or_abandoned_is_no_ancestor(lines, folder):
    assert [g.number for g in member_histories(lines, folder)["c"].generations] == [0, 1]


def test_a_fitness_from_before_a_copy_is_not_the_members(lines, tmp_path):
    found = member_histories(lines, tmp_path)  # no records: only what the journal tells
    assert found["a"].last_fitness() == 9.0
    assert found["b"].last_fitness() is None  # 1.0 was before it copied a
    assert best(found) == "a"
    standings = [{"member": m, "env_frames": 500, "fitness": f} for m, f in (("a", 5.0), ("b", 6.0), ("c", None))]
    found = member_histories([*lines, {"event": "ended", "standings": standings}], tmp_path)
    assert [life.last_fitness() for life in found.values()] == [
        5.0,
        6.0,
        2.0,
    ]  # c told it last at 420, after its copy
    assert best(found) == "b"


def test_two_that_copied_each_other_have_an_end(folder):
    both = {"a": (100, 1.0), "b": (100, 1.0)}
    lines = [
        *({"event": "born", "member": m, "population": 0, "parameters": {KEY: 1.0}} for m in "ab"),
        decision("a", 1, both, "b", 1.0), applied("a", 1),
        decision("b", 1, both, "a", 1.0), applied("b", 1),
    ]  # fmt: skip
    found = member_histories(lines, folder)
    assert [s.member for s in ancestry(found, "a")] == ["b", "a"]  # b as it was before it copied a
    assert [s.member for s in ancestry(found, "b")] == ["b", "a", "b"]


def test_the_best_of_each_population_and_their_interval(lines, folder):
    found = member_histories(lines, folder)
    found["b"].population = 1
    frames, curves = over_populations(found)
    assert frames[-1] == 500
    assert curves[0][-1] == 7.0  # of c, better than a
    assert curves[1][-1] == 6.0
    mean, half = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, half) == (2.0, pytest.approx(2.484, abs=1e-3))  # t of 2 degrees of freedom


@pytest.mark.slow
def test_pictures_of_a_population_and_of_one_that_has_just_begun(lines, folder, tmp_path):
    for name, some in (("whole", lines), ("new", lines[:3])):
        found = member_histories(some, folder if name == "whole" else tmp_path / "nowhere")
        draw(found, [KEY], name, tmp_path / f"{name}.png")
        draw_populations(found, name == "new", name, tmp_path / f"{name}-p.png")
        page(found, name, tmp_path / f"{name}.html")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    text = (tmp_path / "whole.html").read_text()
    assert "\\u003cb\\u003ec\\u003c\\u002fb\\u003e, generation 1" in text
    assert 'src="http' not in text  # nothing is fetched
