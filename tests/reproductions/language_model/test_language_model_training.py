"""Training of language models, also when interrupted."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from impala_mi.reproductions import study as study_module
from impala_mi.reproductions.language_model.corpus import END
from impala_mi.reproductions.language_model.language_model_training import LanguageModelTraining, columns
from impala_mi.reproductions.language_model.word_lstm import KINDS, Kind
from tests.reproductions.language_model.small_models import PROTOCOL, SMALL, a_study, corpus

CPU = torch.device("cpu")


@given(length=st.integers(2, 30), count=st.integers(1, 5))
def test_each_token_is_predicted_once_from_the_one_before(length: int, count: int) -> None:
    text = torch.arange(100, 100 + length, dtype=torch.int32)
    count = min(count, length)
    words, targets = columns(text, count, before=7)
    assert words.shape == targets.shape == (math.ceil(length / count), count)
    known = targets.T >= 0
    assert targets.T[known].tolist() == text.tolist()
    assert words.T[known].tolist() == [7, *text.tolist()[:-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_perplexity_is_that_of_every_token(kind: Kind) -> None:
    texts = corpus(other=26)  # not a multiple of the columns, more than a segment
    training = LanguageModelTraining(kind, SMALL, replace(PROTOCOL, batch=1), texts, 1, CPU)
    model, end = training.model, texts.vocabulary.index(END)
    read = torch.cat([torch.tensor([end]), texts.valid[:-1]]).unsqueeze(1)
    z, _ = model(read.int(), model.initial_state(1))
    logits = z @ model.words.weight.T + model.softmax.bias
    expected = F.cross_entropy(logits, texts.valid.long()).exp().item()
    assert training.perplexity(texts.valid) == pytest.approx(expected, rel=1e-5)
    training.protocol = replace(PROTOCOL, batch=4)  # columns begin with an empty state
    assert training.perplexity(texts.valid) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_is_learnt(kind: Kind) -> None:
    protocol = replace(PROTOCOL, sizes=replace(SMALL, hidden=24), dropout=0.0, learning_rate=0.02)
    training = LanguageModelTraining(kind, protocol.sizes, protocol, corpus(train=480, other=200), 1, CPU)
    before = training.perplexity(training.corpus.valid)
    while not training.over:
        training.update()
    assert 6 < before < 14
    assert training.valid[-1] < before / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_training_ends_as_if_it_had_not_been(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "SAVE_EVERY_S", 0.0)
    texts = corpus()

    def training() -> LanguageModelTraining:
        return LanguageModelTraining(kind, SMALL, PROTOCOL, texts, 1, CPU)

    whole = training()
    alone = a_study(tmp_path / "whole")
    alone.begin()
    expected = whole.finish(alone, "a", 0.0, 1.0)
    updates = 0
    step = LanguageModelTraining.update

    def stopped(self: LanguageModelTraining) -> None:
        nonlocal updates
        if updates == 8:  # in the second epoch
            raise KeyboardInterrupt
        updates += 1
        step(self)

    study = a_study(tmp_path / "twice")
    monkeypatch.setattr(LanguageModelTraining, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        study.part("a", lambda: training().finish(study, "a", 0.0, 1.0))
    monkeypatch.setattr(LanguageModelTraining, "update", step)
    second = training()
    results = study.part("a", lambda: second.finish(study, "a", 0.0, 1.0))
    assert {key: results[key] for key in expected} == expected
    assert len(expected["valid"]) == 6
    for parameter, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_training_ends_where_validation_gets_no_better(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    training = LanguageModelTraining("LSTM", SMALL, replace(PROTOCOL, epochs=9, patience=2), corpus(), 1, CPU)
    perplexities = iter([9.0, 109.0, 7.0, 107.0, 8.0, 7.5])  # the test's after each that was the best
    monkeypatch.setattr(training, "perplexity", lambda _: next(perplexities))
    study = a_study(tmp_path)
    study.begin()
    assert training.finish(study, "a", 0.0, 1.0) | {"parameters": 0} == {
        "valid": [9.0, 7.0, 8.0, 7.5], "test": 107.0, "parameters": 0,
    }  # fmt: skip


def test_what_diverged_is_infinite_and_never_the_best() -> None:
    training = LanguageModelTraining("LSTM", SMALL, PROTOCOL, corpus(), 1, CPU)
    training.validate()
    training.learnt[0].data.fill_(math.nan)
    training.validate()
    assert training.valid[1] == math.inf
    assert training.test < math.inf


def test_a_seed_gives_one_result() -> None:
    def trained(seed: int) -> float:
        training = LanguageModelTraining("LSTM + MultDec", SMALL, PROTOCOL, corpus(), seed, CPU)
        torch.randn(seed + 1)  # the global generator plays no part
        for _ in range(3):
            training.update()
        return training.perplexity(training.corpus.test)

    assert trained(1) == trained(1) != trained(2)
