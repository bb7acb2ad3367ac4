"""Stacks: what they find, and that they can be interrupted."""

from pathlib import Path

import pytest

from impala_mi.reproductions import study
from impala_mi.reproductions.expressivity import training
from impala_mi.reproductions.expressivity.experiment import _done_or_trained
from impala_mi.reproductions.expressivity.needs import needed
from impala_mi.reproductions.expressivity.networks import FUNCTIONS
from impala_mi.reproductions.expressivity.training import Sweep
from impala_mi.reproductions.study import Study
from tests.reproductions.states import saved

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}


def test_multiplicative_units_find_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit does for a dot product, d for d sums; errors and pruned errors are those of the networks."""
    monkeypatch.setattr(training, "SAMPLES", 1000)
    sweep = Sweep("MI", 2, ("dot product", "summation, d outputs"), (1, 2), steps=400, repetitions=1)
    found = _done_or_trained(Study("n", tmp_path, SETTINGS), sweep, 0.0, 1.0)
    assert len(found) == 12
    dot, several = (needed(found, function, 1)[0] for function in sweep.functions)
    assert dot is not None
    assert dot.size == 1
    assert dot.left < dot.parameters == 11
    assert dot.error_pruned == pytest.approx(dot.error, abs=0.01)
    assert several is not None
    assert several.size == 2


def test_an_interrupted_sweep_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAMPLES", 300)
    monkeypatch.setattr(study, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(training, "_STEPS_AT_A_TIME", 7)
    sweep = Sweep("low rank", 3, tuple(FUNCTIONS), (1, 3), steps=30, repetitions=2)

    def interrupt(share: float, what: str) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    whole = _done_or_trained(Study("n", tmp_path / "a", SETTINGS), sweep, 0.0, 1.0)
    own = Study("n", tmp_path / "b", SETTINGS, interrupt)
    with pytest.raises(KeyboardInterrupt):
        _done_or_trained(own, sweep, 0.0, 1.0)
    state = saved(own, sweep.name)
    assert state is not None
    assert state["step"] == 14
    own.progress = lambda share, what: None
    assert _done_or_trained(own, sweep, 0.0, 1.0) == whole
