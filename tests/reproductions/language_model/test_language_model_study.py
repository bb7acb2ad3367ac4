"""The three models, from settings to the report."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from impala_mi.errors import UserError
from impala_mi.reproductions.language_model.corpus import number_words
from impala_mi.reproductions.language_model.language_model_study import (
    FULL,
    QUICK,
    run_study,
    sizes_of,
    train_models,
)
from impala_mi.reproductions.language_model.word_lstm import KINDS, model_parameters
from impala_mi.reproductions.redraw import REPORTS
from impala_mi.reproductions.study_report import read_page, write_study_report
from tests.reproductions.language_model.small_models import PROTOCOL, SMALL, a_study, corpus


def test_quick_models_are_of_one_size() -> None:
    models = sizes_of(QUICK, 3_000, adaptive=False)
    counts = [model_parameters(kind, models[kind]) for kind in KINDS]
    assert max(counts) < 1.01 * min(counts)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"corpus": "x"}, "--corpus 'x' with --quick"),
        ({"quick": False}, "needs --corpus FOLDER, or --quick.*Merity"),
        ({"quick": False, "corpus": "nowhere"}, "'nowhere' is no folder"),
    ],
)
def test_a_corpus_is_asked_for_first(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        run_study(a_study(tmp_path, **settings))


def test_too_few_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training text has 10 words including line ends; at least 11"):
        train_models(a_study(tmp_path), corpus(train=10, other=4), replace(PROTOCOL, batch=11))


@pytest.mark.slow
@pytest.mark.parametrize("softmax", ["exact", "adaptive"])
def test_a_study_from_end_to_end(tmp_path: Path, softmax: str) -> None:
    shares = []
    study = a_study(tmp_path, softmax=softmax)
    study.progress = lambda share, description: shares.append(share)
    protocol = replace(PROTOCOL, sizes=replace(SMALL, embedding=16), equal=True, epochs=1)
    words = [[f"w{i}"] for i in range(40)]
    report = train_models(study, number_words("words", {"train": words, "valid": words, "test": words}), protocol)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    rows = report.tables[0].rows
    assert [row[0] for row in rows] == list(KINDS)
    assert len({row[1] for row in rows}) == 3  # as wide as makes them one size
    assert all("±" in str(row[3]) and "±" in str(row[4]) for row in rows)
    assert ("adaptive" in report.tables[0].title) == (softmax == "adaptive")
    assert "which is not WikiText-103" in report.verdict
    assert list(report.figures) == ["perplexity"]
    write_study_report(study, report, "impala-mi reproduce language-model")
    assert read_page(tmp_path, REPORTS).markdown == (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_more_seeds_are_more_parts(tmp_path: Path) -> None:
    """All models of a seed come before the next seed; a finished study continues with more seeds."""
    protocol, done = replace(PROTOCOL, epochs=1), []
    first = a_study(tmp_path)
    train_models(first, corpus(), protocol)
    del first  # and the lock with it; PyTorch's first optimiser keeps the frames that made it for a while
    gc.collect()
    study = a_study(tmp_path)
    study.progress = lambda share, description: done.append(description.rpartition(",")[0])
    train_models(study, corpus(), replace(protocol, seeds=4))
    assert list(dict.fromkeys(done)) == [f"{kind}, seed {seed}" for seed in (5, 6) for kind in KINDS]


def test_every_protocol_can_show_a_difference() -> None:
    assert FULL.seeds == QUICK.seeds == 3
