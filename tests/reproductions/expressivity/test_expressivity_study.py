"""The sweep of figure 2, and the whole study in miniature."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest

from impala_mi.errors import UserError
from impala_mi.reproductions.expressivity import expressivity_study, size_sweep
from impala_mi.reproductions.expressivity.expressivity_study import (
    PAPER,
    ExpressivityProtocol,
    run_study,
    within_reach,
)
from impala_mi.reproductions.expressivity.shallow_networks import FUNCTIONS, MODELS
from impala_mi.reproductions.redraw import REPORTS
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import read_page, write_study_report

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}
SMALL = ExpressivityProtocol(widths=(1, 3), sizes=((1, 2), (4,)), beyond=(), steps=3, repetitions=2)


def test_the_papers_sweep() -> None:
    sizes = [size for group in PAPER.sizes for size in group]
    assert sizes == [1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 140, 160, 180, 200]
    assert PAPER.steps == 6000
    assert size_sweep.RATES == (0.1, 0.001, 0.0001)
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


@pytest.mark.slow
def test_the_whole_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressivity_study, "QUICK", SMALL)
    monkeypatch.setattr(size_sweep, "SAMPLES", 100)
    shares: list[float] = []
    own = Study("expressivity", tmp_path, SETTINGS, lambda share, description: shares.append(share))
    report = run_study(own)
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1.0
    assert len(report.data["points"]) == len(SMALL.widths) * len(MODELS) * len(FUNCTIONS)
    part = json.loads((tmp_path / "parts" / "width3-MI-sizes1-2.json").read_text())["trained"]
    assert {t["function"] for t in part} == {"summation", "gating", "dot product", "gating, d outputs"}
    files = write_study_report(own, report, "impala-mi reproduce expressivity")
    assert [f.name for f in files] == ["figure2.png", "outputs.png", "relatives.png", "results.md", "results.json"]
    assert read_page(tmp_path, REPORTS).markdown == (tmp_path / "results.md").read_text()
    del own  # and the lock with it; PyTorch's first optimiser keeps the frames that made it for a while
    gc.collect()
    monkeypatch.setattr(expressivity_study, "train_sweep", None)  # nothing is trained again
    assert run_study(Study("expressivity", tmp_path, SETTINGS)).verdict == report.verdict
    monkeypatch.setattr(expressivity_study, "QUICK", replace(SMALL, steps=4))
    with pytest.raises(UserError, match="steps=3, not 4"):
        run_study(Study("expressivity", tmp_path, SETTINGS))
