"""Training that is resumed, and the whole study in miniature."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from impala_mi.nn.meta import num_parameters
from impala_mi.reproductions import study as study_module
from impala_mi.reproductions.neural_process import (
    decoder_training,
    neural_process_study,
)
from impala_mi.reproductions.neural_process import (
    held_out as held_out_module,
)
from impala_mi.reproductions.neural_process.decoders import DECODERS, NeuralProcess
from impala_mi.reproductions.neural_process.held_out import held_out, make_examples
from impala_mi.reproductions.neural_process.neural_process_study import train_decoder
from impala_mi.reproductions.redraw import REPORTS
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import read_page, write_study_report
from tests.reproductions.neural_process.small_protocol import SMALL

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps in chunks of two, the state kept after each chunk."""
    monkeypatch.setattr(neural_process_study, "QUICK", SMALL)
    for module in (neural_process_study, decoder_training):
        monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(held_out_module, "EXAMPLE_SAMPLES", 4)
    monkeypatch.setattr(study_module, "SAVE_EVERY_S", 0.0)


def _study(folder: Path, **changes: Any) -> Study:
    return Study("neural-process", folder, {"quick": True, "seed": 1, "device": "cpu"}, **changes)


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(small: None, tmp_path: Path) -> None:
    held, examples = held_out(5, 3, 0, CPU), make_examples(0, CPU)

    def attempt(folder: Path, chunks: int) -> dict[str, Any]:
        """Run until the given chunk, before its state is saved."""
        study, done = _study(folder), iter(range(1, 100))

        def progress(share: float) -> None:
            if next(done) == chunks:
                raise KeyboardInterrupt

        return study.part("mi-x", lambda: train_decoder(study, "mi-x", SMALL, held, examples, progress))

    whole = attempt(tmp_path / "whole", 99)
    for chunks in (2, 1, 3):  # two chunks of four steps make a point of the curve
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "pieces", chunks)
    pieces = attempt(tmp_path / "pieces", 99)
    assert whole.pop("seconds") > 0
    assert pieces.pop("seconds") > 0
    assert whole == pieces


@pytest.mark.slow
def test_the_study_runs_through_and_is_read_when_it_is_done(small: None, tmp_path: Path) -> None:
    shares: list[float] = []
    study = _study(tmp_path, progress=lambda share, description: shares.append(share))
    report = neural_process_study.run_study(study)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    files = write_study_report(study, report, "impala-mi reproduce neural-process --quick")
    assert {file.name for file in files} == {
        "curves.png", "contexts.png", "functions.png", "results.md", "results.json"
    }  # fmt: skip
    values = json.loads((tmp_path / "results.json").read_text())
    assert set(values["data"]["decoders"]) == set(DECODERS)
    main, nll, squared = values["tables"]
    assert [row[1] for row in main["rows"]][:2] == [207490, num_parameters(NeuralProcess(DECODERS["mlp-wide"]))]
    assert len(nll["rows"]) == len(squared["rows"]) == len(DECODERS) + 1
    curve = values["data"]["decoders"]["mi-x"]["curve"]
    assert [point["step"] for point in curve] == [4, 8]
    count = len(shares)
    assert neural_process_study.run_study(study).verdict == report.verdict
    assert read_page(tmp_path, REPORTS).markdown == (tmp_path / "results.md").read_text()
    assert len(shares) == count
