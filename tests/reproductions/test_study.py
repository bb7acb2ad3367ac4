"""Studies: interrupted, continued, refused."""

import json
import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from impala_mi.errors import UserError
from impala_mi.reproductions import study as module
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import ResultTable, StudyReport, write_study_report
from tests.reproductions.study_states import saved_state

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}


def test_parts_that_are_done_are_read(tmp_path: Path) -> None:
    calls = []

    def run() -> dict[str, int]:
        calls.append(1)
        return {"x": 7}

    first = Study("n", tmp_path, SETTINGS).part("a", run)
    assert Study("n", tmp_path, SETTINGS).part("a", run) == first
    assert first["x"] == 7
    assert len(calls) == 1


def test_a_part_continues_from_its_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    study = Study("n", tmp_path, SETTINGS)
    steps = []

    def run(stop_at: int) -> dict[str, int]:
        state = saved_state(study, "a") or {"step": 0, "w": torch.zeros(2)}
        steps.append(state["step"])
        for step in range(state["step"], 10):
            if step == stop_at:
                raise KeyboardInterrupt
            state = {"step": step + 1, "w": state["w"] + 1}
            study.save("a", lambda: state)  # noqa: B023
        return {"w": int(state["w"].sum())}

    with pytest.raises(KeyboardInterrupt):
        study.part("a", lambda: run(4))
    study = Study("n", tmp_path, SETTINGS)
    assert study.part("a", lambda: run(-1))["w"] == 20
    assert steps == [0, 4]
    assert saved_state(study, "a") is None


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    first = Study("n", tmp_path, SETTINGS | {"seeds": 2})
    first.begin(plan={"steps": 10})
    with pytest.raises(UserError, match="is in use"):
        Study("n", tmp_path, SETTINGS).begin()
    del first  # the lock goes with it
    for name, settings, steps, says in (
        ("n", {"seed": 4}, 10, "seed=3, not 4"),
        ("m", {"quick": False}, 20, "holds the experiment 'n', not 'm'"),
        ("n", {"quick": False}, 20, "was begun with --quick"),
        ("n", {}, 20, "plan.steps=10, not 20"),
    ):
        with pytest.raises(UserError, match=says):
            Study(name, tmp_path, SETTINGS | {"seeds": 2} | settings).begin(plan={"steps": steps})
    Study("n", tmp_path, SETTINGS | {"seeds": 5}).begin(plan={"steps": 10})  # more parts


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="no study's folder"):
        Study("n", tmp_path, SETTINGS).begin()
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_time_of_attempts_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 5.0, 100.0, 107.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with pytest.raises(ZeroDivisionError):
        Study("n", tmp_path, SETTINGS).part("a", lambda: {"x": 1 / 0})
    assert Study("n", tmp_path, SETTINGS).part("a", lambda: {"x": 1})["seconds"] == 12.0


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    study = Study("n", tmp_path, SETTINGS)
    study.begin()
    parts = tmp_path / "parts"
    (parts / "a.pt").write_bytes(b"half")
    with pytest.raises(UserError, match=r"a\.pt' is damaged"):
        study.restore("a", lambda state: None)
    torch.save({"another": 1}, parts / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt' is damaged \(KeyError: 'step'\); remove it"):
        study.restore("a", lambda state: state["step"])
    for text in ("half", "[]", "{}", '{"seconds": null}'):
        (parts / "b.json").write_text(text)
        with pytest.raises(UserError, match=r"b\.json' is damaged"):
            study.part("b", lambda: {})


@pytest.mark.parametrize("text", ["", '{"name"', "[1]", b"\xff"])
def test_damaged_settings_are_named_and_nothing_is_lost(tmp_path: Path, text: str | bytes) -> None:
    Study("n", tmp_path, SETTINGS).part("a", lambda: {"x": 1})
    before = (tmp_path / "parts" / "a.json").read_bytes()
    (tmp_path / "settings.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"settings\.json' is damaged .*; put it back, or name another folder"):
        Study("n", tmp_path, SETTINGS).begin()
    assert (tmp_path / "parts" / "a.json").read_bytes() == before


def test_a_clock_that_cannot_be_read_costs_nothing_else(tmp_path: Path) -> None:
    study = Study("n", tmp_path, SETTINGS)
    study.begin()
    (tmp_path / "parts" / "a.seconds").write_text("xx")
    assert study.part("a", lambda: {"x": 1})["x"] == 1


def test_a_report_is_written(tmp_path: Path) -> None:
    study = Study("n", tmp_path, SETTINGS)
    study.part("a", lambda: {"x": 1})
    table = ResultTable("T", ["what", "value"], [["one", 1.23456], ["two", None], ["three", 1200]])
    report = StudyReport("C.", "V.", [table], {"f": Figure()}, {"x": [1, math.inf]})
    files = write_study_report(study, report, "impala-mi reproduce n")
    assert [file.name for file in files] == ["f.png", "results.md", "results.json"]
    text = files[1].read_text()
    assert "| one | 1.235 |\n| two | - |\n| three | 1,200 |" in text
    assert "![f](f.png)" in text
    values = json.loads(files[2].read_text())
    assert values["data"] == {"x": [1, None]}  # JSON knows no infinity
    assert values["seed"] == 3
    assert f"- trained by: {values['trained by']}" in text
