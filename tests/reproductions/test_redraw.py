"""Pages made again from results.json: those of the documentation, and files that are no results."""

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impala_mi.cli.reproduce import EXPERIMENTS
from impala_mi.errors import UserError
from impala_mi.reproductions.redraw import REPORTS
from impala_mi.reproductions.study_report import (
    ResultTable,
    StudyReport,
    as_numbers,
    as_stored,
    read_page,
)
from tests.commands import impala, refused

DOCS = Path(__file__).parents[2] / "docs/reproductions"
FOLDERS = sorted(file.parent for file in DOCS.glob("*/results.md"))
WITHOUT_DATA = {"neural-process", "multitask"}
"""Pages that are older than files of data; docs/reproductions/README.md says so."""


def test_every_experiment_can_be_drawn_again() -> None:
    assert set(REPORTS) == set(EXPERIMENTS)
    assert {folder.name for folder in FOLDERS if not (folder / "results.json").exists()} == WITHOUT_DATA


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f.name not in WITHOUT_DATA], ids=lambda f: f.name)
def test_pages_of_the_documentation_follow_from_their_data(folder: Path) -> None:
    page = read_page(folder, REPORTS)
    assert page.name == folder.name
    assert page.markdown == (folder / "results.md").read_text(encoding="utf-8")
    assert {f"{name}.png" for name in page.report.figures} == {file.name for file in folder.glob("*.png")}
    assert re.fullmatch("[0-9a-f]{12}(, [0-9a-f]{12})*", page.facts["trained by"]), "revisions of clean trees"


def report_of(data: dict[str, float]) -> StudyReport:
    return StudyReport("C.", f"x is {data['x']}.", [ResultTable("T", ["x"], [[data["x"]]])], {}, data)


def test_verdict_and_tables_are_computed_anew(tmp_path: Path) -> None:
    facts = {"command": "c", "seed": 1, "versions": {"python": "3"}}
    stored = {"name": "n", **facts, "claim": "old", "verdict": "old", "tables": [], "data": {"x": 2.0}}
    (tmp_path / "results.json").write_text(json.dumps(stored))
    page = read_page(tmp_path, {"n": report_of})
    assert "Here: x is 2.0." in page.markdown
    assert "- seed: 1\n- versions: python 3" in page.markdown
    assert "old" not in page.markdown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "has no results.json"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"name": "n"}', "is damaged .KeyError: 'data'"),
        ('{"name": "n", "data": {}}', "is damaged .KeyError: 'x'"),
        ('{"name": "n", "data": {"x": 1}}', "is damaged .KeyError: 'command'"),
        ('{"name": "m", "data": {"x": 1}}', "of the experiment 'm'; known are n"),
        ('{"name": ["n"], "data": {"x": 1}}', "is of the experiment"),
    ],
)
def test_files_that_are_no_results(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_page(tmp_path, {"n": report_of})


def test_nothing_is_written_unless_all_folders_can_be_read(tmp_path: Path) -> None:
    refused(impala("reproduce", "redraw", "nowhere", cwd=tmp_path), "'nowhere' has no results.json")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_json_does_not_have_are_numbers_again() -> None:
    stored = as_stored({"a": [1.0, float("nan"), [float("inf")]], "b": None})
    again = as_numbers(stored)
    assert again["b"] is None
    assert math.isnan(again["a"][1])
    assert math.isnan(again["a"][2][0])


@settings(max_examples=30)
@given(st.recursive(st.floats() | st.integers() | st.text() | st.none(), lambda v: st.lists(v) | st.tuples(v)))
def test_what_is_stored_comes_back(value: object) -> None:
    stored = as_stored({"a": value})
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored == as_stored(stored)
