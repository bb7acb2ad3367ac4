"""Figure 2: the sweep and the whole."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest

from impala_mi.errors import UserError
from impala_mi.reproductions.expressivity import experiment, training
from impala_mi.reproductions.expressivity.experiment import PAPER, Protocol, run, within_reach
from impala_mi.reproductions.expressivity.networks import FUNCTIONS, MODELS
from impala_mi.reproductions.findings import write
from impala_mi.reproductions.study import Study

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}
SMALL = Protocol(widths=(1, 3, 4), sizes=((1, 2), (4,)), beyond=(), steps=20, repetitions=2)


def test_the_papers_sweep() -> None:
    sizes = [size for group in PAPER.sizes for size in group]
    assert sizes == [1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 140, 160, 180, 200]
    assert PAPER.steps == 6000
    assert training.RATES == (0.1, 0.001, 0.0001)
    assert PAPER.groups("MI", 40) == PAPER.sizes
    assert PAPER.groups("MLP", 10)[-1] == (2000,)
    assert PAPER.groups("MLP", 60)[-1] == (1000,)
    assert PAPER.groups("diagonal", 15) == ((15,),)


def test_by_the_mean_narrower_networks_are_within_reach() -> None:
    assert not within_reach("gating, d outputs", 6, 3)
    assert within_reach("gating, d outputs", 6, 4)
    assert not within_reach("summation, d outputs", 6, 5)
    assert within_reach("summation, d outputs", 20, 19)
    assert within_reach("gating", 40, 1)


def test_the_whole_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "QUICK", SMALL)
    monkeypatch.setattr(training, "SAMPLES", 300)
    shares: list[float] = []
    own = Study("expressivity", tmp_path, SETTINGS, lambda share, what: shares.append(share))
    found = run(own)
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1.0
    assert len(found.data["points"]) == 3 * len(MODELS) * len(FUNCTIONS)
    part = json.loads((tmp_path / "parts" / "width3-MI-sizes1-2.json").read_text())["trained"]
    assert {t["function"] for t in part} == {"summation", "gating", "dot product", "gating, d outputs"}
    files = write(own, found, "impala-mi reproduce expressivity")
    assert [f.name for f in files] == ["figure2.png", "outputs.png", "relatives.png", "results.md", "results.json"]
    del own  # and the lock with it; PyTorch's first optimiser keeps the frames that made it for a while
    gc.collect()
    monkeypatch.setattr(experiment, "train", None)  # nothing is trained again
    assert run(Study("expressivity", tmp_path, SETTINGS)).verdict == found.verdict
    monkeypatch.setattr(experiment, "QUICK", replace(SMALL, steps=30))
    with pytest.raises(UserError, match="steps=20, not 30"):
        run(Study("expressivity", tmp_path, SETTINGS))
