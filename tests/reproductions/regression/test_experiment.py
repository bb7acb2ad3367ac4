"""Figure 3: the whole."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest

from impala_mi.errors import UserError
from impala_mi.reproductions.findings import write
from impala_mi.reproductions.regression import experiment, training
from impala_mi.reproductions.regression.experiment import PAPER, run
from impala_mi.reproductions.regression.models import MODELS
from impala_mi.reproductions.regression.training import Protocol
from impala_mi.reproductions.study import Study

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}
SMALL = Protocol(tasks=(2, 4), steps=100, repetitions=3)


def test_the_papers_protocol() -> None:
    assert Protocol(tasks=(20, 40, 60), steps=10_000, repetitions=60) == PAPER
    assert (training.BATCH, training.RATE) == (50, 3e-3)


def test_the_whole_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "ROWS", 8)  # stacks of several sizes
    monkeypatch.setattr(experiment, "QUICK", SMALL)
    shares: list[float] = []
    own = Study("regression", tmp_path, SETTINGS, lambda share, what: shares.append(share))
    found = run(own)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert len(found.tables[0].rows) == len(SMALL.tasks) * len(MODELS)
    files = write(own, found, "impala-mi reproduce regression")
    assert [f.name for f in files] == ["figure3.png", "kinds.png", "results.md", "results.json"]
    assert len(found.data["curves"]["4"]["conditional MI"]["sine"]["final"]) == 3
    del own  # and the lock with it; PyTorch's first optimiser keeps the frames that made it for a while
    gc.collect()
    monkeypatch.setattr(experiment, "train", None)  # nothing is trained again
    assert run(Study("regression", tmp_path, SETTINGS)).verdict == found.verdict
    monkeypatch.setattr(experiment, "QUICK", replace(SMALL, steps=200))
    with pytest.raises(UserError, match="steps=100, not 200"):
        run(Study("regression", tmp_path, SETTINGS))
