"""Studies: interrupted, gone on with, refused."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from impala_mi.errors import UserError
from impala_mi.experiments import study as module
from impala_mi.experiments.findings import Findings, Table, write
from impala_mi.experiments.study import Study

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


def test_a_part_goes_on_from_its_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    study = Study("n", tmp_path, SETTINGS)
    begun = []

    def run(stop_at: int) -> dict[str, int]:
        state = study.saved("a") or {"step": 0, "w": torch.zeros(2)}
        begun.append(state["step"])
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
    assert begun == [0, 4]
    assert study.saved("a") is None


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    Study("n", tmp_path, SETTINGS)
    with pytest.raises(UserError, match="seed=3, not 4"):
        Study("n", tmp_path, SETTINGS | {"seed": 4})
    with pytest.raises(UserError, match="name='n', not 'm'"):
        Study("m", tmp_path, SETTINGS)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    study = Study("n", tmp_path, SETTINGS)
    (tmp_path / "parts" / "a.pt").write_bytes(b"half")
    with pytest.raises(UserError, match=r"a\.pt' is damaged"):
        study.part("a", lambda: {})


def test_findings_are_written(tmp_path: Path) -> None:
    study = Study("n", tmp_path, SETTINGS)
    study.part("a", lambda: {"x": 1})
    table = Table("T", ["what", "value"], [["one", 1.23456], ["two", None], ["three", 1200]])
    files = write(study, Findings("C.", "V.", [table], {"f": Figure()}, {"x": [1, 2]}), "impala-mi reproduce n")
    assert [file.name for file in files] == ["f.png", "results.md", "results.json"]
    text = files[1].read_text()
    assert "| one | 1.235 |\n| two | - |\n| three | 1,200 |" in text
    assert "![f](f.png)" in text
    values = json.loads(files[2].read_text())
    assert values["data"] == {"x": [1, 2]}
    assert values["seed"] == 3
