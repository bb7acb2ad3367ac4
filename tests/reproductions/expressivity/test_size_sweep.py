"""Sweeps: what they learn, and that they continue after an interruption."""

from pathlib import Path

import pytest

from impala_mi.reproductions import study
from impala_mi.reproductions.expressivity import size_sweep
from impala_mi.reproductions.expressivity.expressivity_study import sweep_part
from impala_mi.reproductions.expressivity.min_params import smallest_networks
from impala_mi.reproductions.expressivity.shallow_networks import FUNCTIONS
from impala_mi.reproductions.expressivity.size_sweep import SizeSweep
from impala_mi.reproductions.study import Study
from tests.reproductions.study_states import saved_state

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}


@pytest.mark.slow
def test_multiplicative_units_learn_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit is enough for a dot product and d units for d sums, pruned or not."""
    monkeypatch.setattr(size_sweep, "SAMPLES", 1000)
    sweep = SizeSweep("MI", 2, ("dot product", "summation, d outputs"), (1, 2), steps=300, repetitions=1)
    trained = sweep_part(Study("n", tmp_path, SETTINGS), sweep, 0.0, 1.0)
    assert len(trained) == 12
    dot, several = (smallest_networks(trained, function, 1)[0] for function in sweep.functions)
    assert dot is not None
    assert dot.size == 1
    assert dot.unpruned < dot.parameters == 11
    assert dot.error_pruned == pytest.approx(dot.error, abs=0.01)
    assert several is not None
    assert several.size == 2


@pytest.mark.slow
def test_an_interrupted_sweep_continues_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_sweep, "SAMPLES", 300)
    monkeypatch.setattr(study, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(size_sweep, "_STEPS_AT_A_TIME", 7)
    sweep = SizeSweep("low rank", 3, tuple(FUNCTIONS), (1, 3), steps=30, repetitions=2)

    def interrupt(share: float, description: str) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    whole = sweep_part(Study("n", tmp_path / "a", SETTINGS), sweep, 0.0, 1.0)
    own = Study("n", tmp_path / "b", SETTINGS, interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep_part(own, sweep, 0.0, 1.0)
    state = saved_state(own, sweep.name)
    assert state is not None
    assert state["step"] == 14
    own.progress = lambda share, description: None
    assert sweep_part(own, sweep, 0.0, 1.0) == whole
