"""Figure 2: what is counted, found and said."""

import gc
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.errors import UserError
from impala_mi.experiments import expressivity, study
from impala_mi.experiments.expressivity import (
    FUNCTIONS,
    MODELS,
    PAPER,
    Protocol,
    Sweep,
    _done_or_trained,
    outputs,
    run,
    targets,
)
from impala_mi.experiments.findings import write
from impala_mi.experiments.parameters_needed import Point, Trained, claims, curves, growth, needed
from impala_mi.experiments.study import Study

SETTINGS = {"quick": True, "seed": 3, "device": "cpu"}
SMALL = Protocol(widths=(1, 3, 4), sizes=((1, 2), (4,)), beyond=(), steps=20, repetitions=2)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_parameter_counts(d: int, out: int, size: int) -> None:
    """Appendix C's networks, written out."""
    counted = {
        name: sum(p.numel() for p in make(d, out, size).parameters()) for name, make in MODELS.items()
    }  # fmt: skip
    assert counted == {
        "MLP": (2 * d + 1) * size + (size + 1) * out,
        "MI": (d * d + 2 * d + 1) * size + (size + 1) * out,
        "low rank": (2 * d + out) * size + (2 * d + 1) * out,
        "diagonal": 2 * d * d + 2 * d + (d + 1) * out,
    }


def test_the_papers_sweep() -> None:
    sizes = [size for group in PAPER.sizes for size in group]
    assert sizes == [1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 140, 160, 180, 200]
    assert PAPER.steps == 6000
    assert expressivity.RATES == (0.1, 0.001, 0.0001)
    assert PAPER.groups("MI", 40) == PAPER.sizes
    assert PAPER.groups("MLP", 10)[-1] == (2000,)
    assert PAPER.groups("MLP", 60)[-1] == (1000,)
    assert PAPER.groups("diagonal", 15) == ((15,),)


def test_targets_are_padded_with_zeros() -> None:
    x, z = torch.randn(2, 7, 3)
    y = targets(tuple(FUNCTIONS), x, z)
    for values, function in zip(y, FUNCTIONS, strict=True):
        k = outputs(function, 3)
        assert torch.equal(values[..., :k], FUNCTIONS[function](x, z))
        assert not values[..., k:].any()
    assert [outputs(f, 3) for f in FUNCTIONS] == [1, 1, 1, 3, 3]


def test_a_linear_function_is_within_the_error_of_gates_by_the_mean() -> None:
    """Why the error of several outputs is summed: z / 2 gates nothing."""
    x, z = torch.randn(2, 200_000, 1)
    assert (x.sigmoid() * z - z / 2).square().mean().item() == pytest.approx(0.0434, abs=0.002)


@given(st.integers(2, 6), st.data())
def test_narrow_networks_cannot_have_d_outputs_within_the_error(d: int, data: st.DataObject) -> None:
    """Why they are not trained: the best of rank s leaves d - s principal components out."""
    s = data.draw(st.integers(1, d - 1))
    x, z = torch.randn(2, 4000, d)
    for function in ("summation, d outputs", "gating, d outputs"):
        y = FUNCTIONS[function](x, z)
        spectrum = torch.linalg.eigvalsh(torch.cov(y.T))
        assert spectrum[: d - s].sum() > 2 * expressivity.ERROR


def test_multiplicative_units_find_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit does for a dot product, d for d sums; errors and pruned errors are those of the networks."""
    monkeypatch.setattr(expressivity, "SAMPLES", 1000)
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
    monkeypatch.setattr(expressivity, "SAMPLES", 300)
    monkeypatch.setattr(study, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(expressivity, "_STEPS_AT_A_TIME", 7)
    sweep = Sweep("low rank", 3, tuple(FUNCTIONS), (1, 3), steps=30, repetitions=2)

    def interrupt(share: float, what: str) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    whole = _done_or_trained(Study("n", tmp_path / "a", SETTINGS), sweep, 0.0, 1.0)
    own = Study("n", tmp_path / "b", SETTINGS, interrupt)
    with pytest.raises(KeyboardInterrupt):
        _done_or_trained(own, sweep, 0.0, 1.0)
    state = own.saved(sweep.name)
    assert state is not None
    assert state["step"] == 14
    own.progress = lambda share, what: None
    assert _done_or_trained(own, sweep, 0.0, 1.0) == whole


def trained(size: int, repetition: int, error: float | None, rate: float = 0.1) -> Trained:
    return Trained("f", size, rate, repetition, 10 * size, error, 5, error)


def test_the_smallest_network_within_the_error() -> None:
    found = [
        trained(1, 0, 0.2), trained(2, 0, 0.09), trained(2, 0, 0.05, 0.001), trained(3, 0, 0.01),
        trained(1, 1, None), trained(2, 1, 0.11), trained(3, 1, 0.1),
    ]  # fmt: skip
    assert needed(found, "f", 3) == [found[2], found[6], None]
    assert [t and t.size for t in needed(found, "f", 2, scale=0.5)] == [1, 2]


def point(model: str, function: str, width: int, parameters: float | None) -> Point:
    count = None if parameters is None else round(parameters)
    left = None if count is None else round(0.3 * count)
    return Point(model, function, width, [count], [count], [1], [left], [0.05], [0.05], tried=10**6)


def made_up(mlp: dict[int, float | None], mi: dict[int, float]) -> list[Point]:
    functions = ("summation", "gating", "dot product")
    return [point("MLP", f, d, n) for f in functions for d, n in mlp.items()] + [
        point("MI", f, d, n) for f in functions for d, n in mi.items()
    ]


WIDTHS = (1, 3, 5, 8, 10, 20)


def test_statements_hold_where_they_do() -> None:
    found = curves(made_up({d: 1000 * math.exp(0.5 * d) for d in WIDTHS}, {d: 7 * d**2 for d in WIDTHS}))
    held = {c.text: c.held for c in claims(found, "")}
    slope = growth(found["MI", "gating"])
    assert slope is not None
    assert slope[0] == pytest.approx(2.0, abs=0.01)
    for function in ("gating", "dot product"):
        assert held[f"{function}: MI needs fewer parameters than MLP"]
        assert held[f"{function}: the growth of MI is quadratic"]
        assert held[f"{function}: the MLP grows exponentially rather than as a power of d"]
        assert not held[f"{function}: pruning leaves at least 0.9 of the MLP"]
    assert not held["summation: MLP needs fewer parameters than MI"]
    assert held["summation: pruning leaves at most half of MI"]


def test_statements_do_not_hold_where_they_do_not() -> None:
    unknown = {20: None}
    found = curves(made_up({d: 9 * d**2 for d in WIDTHS} | unknown, {d: 20 * d**3 for d in WIDTHS}))
    by = {c.text: c for c in claims(found, "")}
    assert not by["gating: MI needs fewer parameters than MLP"].held  # at 20 alone
    assert (
        "at 1 of 5 widths; at 20 160,000 against more than 1,000,000"
        in by["gating: MI needs fewer parameters than MLP"].numbers
    )
    assert not by["gating: the growth of MI is quadratic"].held
    power = by["gating: the MLP grows exponentially rather than as a power of d"]
    assert not power.held
    assert "more than was tried at 20" in power.numbers
    assert not by["summation: MLP needs fewer parameters than MI"].held


def test_the_whole_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressivity, "QUICK", SMALL)
    monkeypatch.setattr(expressivity, "SAMPLES", 300)
    shares: list[float] = []
    own = Study("expressivity", tmp_path, SETTINGS, lambda share, what: shares.append(share))
    found = run(own)
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1.0
    assert len(found.data["points"]) == 3 * len(MODELS) * len(FUNCTIONS)
    part = json.loads((tmp_path / "parts" / "width3-MI-sizes1-2.json").read_text())["trained"]
    assert {t["function"] for t in part} == {"summation", "gating", "dot product"}
    files = write(own, found, "impala-mi reproduce expressivity")
    assert [f.name for f in files] == ["figure2.png", "outputs.png", "relatives.png", "results.md", "results.json"]
    del own  # and the lock with it; PyTorch's first optimiser keeps the frames that made it for a while
    gc.collect()
    monkeypatch.setattr(expressivity, "train", None)  # nothing is trained again
    assert run(Study("expressivity", tmp_path, SETTINGS)).verdict == found.verdict
    monkeypatch.setattr(expressivity, "QUICK", replace(SMALL, steps=30))
    with pytest.raises(UserError, match="steps=20, not 30"):
        run(Study("expressivity", tmp_path, SETTINGS))
