"""`impala-mi reproduce`: what it refuses, and a study from the command to its folder."""

import json
import sys

import pytest
import torch

from impala_mi.reproductions.regression import regression_study
from impala_mi.reproductions.regression.regression_study import RegressionProtocol
from tests.commands import impala, refused


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["language-model"], "needs --corpus FOLDER, or --quick"),
        (["language-model", "--corpus", "nowhere"], "nowhere' is no folder"),
        (["language-model", "--quick", "--corpus", "nowhere"], "leave out one"),
    ],
)
def test_a_corpus_that_is_not_there_leaves_no_folder(tmp_path, args, says):
    refused(impala("reproduce", *args, cwd=tmp_path), says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu(tmp_path):
    refused(impala("reproduce", "regression", "--device", "cuda", cwd=tmp_path), "use --device cpu")


@pytest.mark.slow
def test_a_study_is_told_written_and_repeated(tmp_path, monkeypatch):
    small = RegressionProtocol(tasks=(2, 4), repetitions=2, steps=4)
    monkeypatch.setattr(regression_study, "POINTS", 4)
    monkeypatch.setattr(regression_study, "QUICK", small)
    args = ("reproduce", "regression", "--quick", "--seed", "5", "--out", "my results")
    done = impala(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The paper: " in done.stdout
    folder = tmp_path / "my results"
    found = json.loads((folder / "results.json").read_text())
    assert found["command"] == "impala-mi reproduce regression --quick --seed 5 --out 'my results'"
    assert (found["seed"], found["versions"]["python"]) == (5, sys.version.split()[0])
    first = {file.name: file.read_bytes() for file in (folder / "parts").iterdir()}
    assert impala(*args, cwd=tmp_path).returncode == 0
    assert first == {file.name: file.read_bytes() for file in (folder / "parts").iterdir()}
    written = {name: (folder / name).read_bytes() for name in ("results.md", "results.json")}
    (folder / "results.md").unlink()
    (folder / "figure3.png").unlink()
    assert impala("reproduce", "redraw", "my results", cwd=tmp_path).returncode == 0
    assert written == {name: (folder / name).read_bytes() for name in written}
    assert (folder / "figure3.png").exists()
    refused(impala(*args[:-3], "6", *args[-2:], cwd=tmp_path), "begun with seed=5, not 6")
    monkeypatch.setattr(regression_study, "QUICK", RegressionProtocol(tasks=(2, 4), repetitions=2, steps=8))
    refused(impala(*args, cwd=tmp_path), "begun with steps=4, not 8")
