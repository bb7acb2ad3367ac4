"""The language models: their sizes, their softmax, training that can be interrupted, and what is concluded."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from impala_mi.errors import UserError
from impala_mi.experiments import language_model as module
from impala_mi.experiments import study as study_module
from impala_mi.experiments.corpus import END, Corpus, numbered
from impala_mi.experiments.language_model import Plan, Training, change, columns, learn, run, verdict
from impala_mi.experiments.lstm_lm import KINDS, Kind, LanguageModel, Sizes, as_large, parameters
from impala_mi.experiments.study import Study
from impala_mi.nn import language
from impala_mi.nn.language import AdaptiveSoftmax, MultiplicativeDecoder, TiedSoftmax

CPU = torch.device("cpu")
SMALL = Sizes(11, embedding=6, hidden=5, context=3)
PLAN = Plan(SMALL, equal=False, seeds=2, batch=3, length=4, epochs=3, patience=9, checks=2, learning_rate=0.01)


def corpus(train: int = 60, other: int = 10) -> Corpus:
    """Eight words in turn, one a line."""

    def text(length: int) -> list[list[str]]:
        return [[f"w{i % 8}"] for i in range(length // 2)]

    return numbered("eight words", {"train": text(train), "valid": text(other), "test": text(other)})


def a_study(folder: Path, **settings: Any) -> Study:
    return Study("language-model", folder, {"quick": True, "seed": 3, "device": "cpu", "corpus": None} | settings)


def test_parameters_are_the_papers() -> None:
    full = Sizes(267_735)
    for kind, wanted in zip(KINDS, (88e6, 105e6, 110e6), strict=True):
        assert parameters(kind, full) == pytest.approx(wanted, rel=0.01)
    table = module.full_size()
    assert [row[3] for row in table.rows] == ["+0.2 %", "+0.1 %", "-0.2 %", "-3.5 %"]


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_one_size(kind: Kind) -> None:
    sizes = Sizes(40, 8, 30, 4)
    wanted = parameters("LSTM + MultEncDec", sizes)
    found = as_large(kind, sizes, wanted)
    for width in (found.hidden - 1, found.hidden + 1):
        other = parameters(kind, replace(found, hidden=width))
        assert abs(parameters(kind, found) - wanted) < abs(other - wanted)


def test_quick_models_are_of_one_size() -> None:
    models = module.sizes_of(module.QUICK, 3_000, adaptive=False)
    counts = [parameters(kind, models[kind]) for kind in KINDS]
    assert max(counts) < 1.01 * min(counts)


def test_the_decoder_is_the_full_form() -> None:
    decoder, h = MultiplicativeDecoder(5, 3, 4), torch.randn(2, 7, 5)
    nn.init.normal_(decoder.layer.U)
    generated = decoder.layer.generate(torch.relu(decoder.context(h)))
    wanted = (generated.weight @ h.unsqueeze(-1)).squeeze(-1) + generated.bias
    torch.testing.assert_close(decoder(h), wanted)


@given(rows=st.integers(1, 9), chunk=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_softmax_in_chunks_is_cross_entropy(rows: int, chunk: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    z, words, bias = (
        torch.randn(*shape, dtype=torch.float64, generator=draw, requires_grad=True)
        for shape in ((rows, 3), (7, 3), (7,))
    )
    targets = torch.randint(7, (rows,), generator=draw)
    softmax = TiedSoftmax(7)
    softmax.bias = nn.Parameter(bias.detach())
    wanted = F.cross_entropy(z @ words.T + bias, targets, reduction="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "CHUNK_ROWS", chunk)
        loss = softmax.loss(z, words, targets)
        torch.testing.assert_close(softmax.surprise(z, words, targets), wanted)
    torch.testing.assert_close(loss, wanted.mean())
    gradients = torch.autograd.grad(3 * loss, (z, words, softmax.bias))
    torch.testing.assert_close(gradients, torch.autograd.grad(3 * wanted.mean(), (z, words, bias)))


def test_an_adaptive_softmax_is_a_distribution() -> None:
    softmax, z = AdaptiveSoftmax(60, 16), torch.randn(2, 16)
    every = torch.arange(60).repeat_interleave(2)
    total = (-softmax.surprise(z.repeat(60, 1), torch.empty(0, 16), every)).exp().view(60, 2).sum(0)
    torch.testing.assert_close(total, torch.ones(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_segments_is_the_text(kind: Kind) -> None:
    model, words = LanguageModel(kind, SMALL), torch.randint(11, (9, 2))
    whole, end = model(words, model.start(2))
    first, state = model(words[:5], model.start(2))
    second, after = model(words[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(after, end)
    assert not end.cell.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_also_in_bfloat16(kind: Kind) -> None:
    """As on a GPU, which casts in the same places."""
    model, words = LanguageModel(kind, replace(SMALL, hidden=16)), torch.randint(11, (7, 3))
    for parameter in model.parameters():  # some start at zero
        nn.init.normal_(parameter, std=0.3) if parameter.requires_grad else None
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(reduced: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            z, state = model(words, model.start(3))
            loss = model.loss(z, words.roll(-1, 0))
        assert loss.dtype == state.cell.dtype == torch.float32
        return loss, list(torch.autograd.grad(loss, learnt))

    (loss, exact), (near, reduced) = gradients(False), gradients(True)
    torch.testing.assert_close(near, loss, rtol=0.02, atol=0)
    for one, other in zip(exact, reduced, strict=True):
        assert one.norm() > 0
        assert (one - other).norm() < 0.1 * one.norm()


@given(length=st.integers(2, 30), count=st.integers(1, 5))
def test_each_token_is_predicted_once_from_the_one_before(length: int, count: int) -> None:
    text = torch.arange(100, 100 + length, dtype=torch.int32)
    count = min(count, length)
    words, targets = columns(text, count, before=7)
    assert words.shape == targets.shape == (math.ceil(length / count), count)
    there = targets.T >= 0
    assert targets.T[there].tolist() == text.tolist()
    assert words.T[there].tolist() == [7, *text.tolist()[:-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_perplexity_is_that_of_every_token(kind: Kind) -> None:
    texts = corpus(other=26)  # not a multiple of the columns, more than a segment
    training = Training(kind, SMALL, replace(PLAN, batch=1), texts, 1, CPU)
    model, end = training.model, texts.vocabulary.index(END)
    read = torch.cat([torch.tensor([end]), texts.valid[:-1]]).unsqueeze(1)
    z, _ = model(read.int(), model.start(1))
    logits = z @ model.words.weight.T + model.softmax.bias
    wanted = F.cross_entropy(logits, texts.valid.long()).exp().item()
    assert training.perplexity(texts.valid) == pytest.approx(wanted, rel=1e-5)
    training.plan = replace(PLAN, batch=4)  # columns begin with an empty state
    assert training.perplexity(texts.valid) == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_is_learnt(kind: Kind) -> None:
    plan = replace(PLAN, sizes=replace(SMALL, hidden=24), dropout=0.0, learning_rate=0.02)
    training = Training(kind, plan.sizes, plan, corpus(train=480, other=200), 1, CPU)
    before = training.perplexity(training.corpus.valid)
    while not training.over:
        training.update()
    assert 6 < before < 14
    assert training.valid[-1] < before / 2


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_training_ends_as_if_it_had_not_been(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "SAVE_EVERY_S", 0.0)
    texts = corpus()

    def training() -> Training:
        return Training(kind, SMALL, PLAN, texts, 1, CPU)

    whole = training()
    alone = a_study(tmp_path / "whole")
    alone.begin()
    wanted = whole.finish(alone, "a", 0.0, 1.0)
    updates = 0
    step = Training.update

    def stopped(self: Training) -> None:
        nonlocal updates
        if updates == 8:  # in the second epoch
            raise KeyboardInterrupt
        updates += 1
        step(self)

    study = a_study(tmp_path / "twice")
    monkeypatch.setattr(Training, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        study.part("a", lambda: training().finish(study, "a", 0.0, 1.0))
    monkeypatch.setattr(Training, "update", step)
    second = training()
    found = study.part("a", lambda: second.finish(study, "a", 0.0, 1.0))
    assert {key: found[key] for key in wanted} == wanted
    assert len(wanted["valid"]) == 6
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_ends_where_validation_gets_no_better(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    training = Training("LSTM", SMALL, replace(PLAN, epochs=9, patience=2), corpus(), 1, CPU)
    perplexities = iter([9.0, 109.0, 7.0, 107.0, 8.0, 7.5])  # the test's after each that was the best
    monkeypatch.setattr(training, "perplexity", lambda _: next(perplexities))
    study = a_study(tmp_path)
    study.begin()
    assert training.finish(study, "a", 0.0, 1.0) | {"parameters": 0} == {
        "valid": [9.0, 7.0, 8.0, 7.5], "test": 107.0, "parameters": 0,
    }  # fmt: skip


def test_what_diverged_is_infinite_and_never_the_best() -> None:
    training = Training("LSTM", SMALL, PLAN, corpus(), 1, CPU)
    training.validate()
    training.learnt[0].data.fill_(math.nan)
    training.validate()
    assert training.valid[1] == math.inf
    assert training.test < math.inf
    assert change([math.inf, 50.0], [40.0, 41.0]).better is False
    assert change([40.0, 41.0], [math.inf, 50.0]).better is False


def test_a_seed_gives_one_result() -> None:
    def trained(seed: int) -> float:
        training = Training("LSTM + MultDec", SMALL, PLAN, corpus(), seed, CPU)
        torch.randn(seed + 1)  # the global generator plays no part
        for _ in range(3):
            training.update()
        return training.perplexity(training.corpus.test)

    assert trained(1) == trained(1) != trained(2)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"corpus": "x"}, "--corpus 'x' with --quick"),
        ({"quick": False}, "needs --corpus FOLDER, or --quick.*Merity"),
        ({"quick": False, "corpus": "nowhere"}, r"'nowhere': there is no wiki\.train\.tokens"),
    ],
)
def test_a_corpus_is_asked_for_first(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        run(a_study(tmp_path, **settings))


def test_too_few_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="10 words of training text, 11 at least"):
        learn(a_study(tmp_path), corpus(train=10, other=4), replace(PLAN, batch=11))


@pytest.mark.parametrize("softmax", ["exact", "adaptive"])
def test_a_study_from_end_to_end(tmp_path: Path, softmax: str) -> None:
    shares = []
    study = a_study(tmp_path, softmax=softmax)
    study.progress = lambda share, what: shares.append(share)
    plan = replace(PLAN, sizes=replace(SMALL, embedding=16), equal=True, epochs=1)
    words = [[f"w{i}"] for i in range(40)]
    found = learn(study, numbered("words", {"train": words, "valid": words, "test": words}), plan)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    rows = found.tables[0].rows
    assert [row[0] for row in rows] == list(KINDS)
    assert len({row[1] for row in rows}) == 3  # as wide as makes them one size
    assert all("±" in str(row[3]) and "±" in str(row[4]) for row in rows)
    assert ("adaptive" in found.tables[0].title) == (softmax == "adaptive")
    assert "which is not WikiText-103" in found.verdict
    assert list(found.figures) == ["perplexity"]


def results(*tests: list[float]) -> dict[Kind, list[dict[str, Any]]]:
    return {kind: [{"test": one} for one in ones] for kind, ones in zip(KINDS, tests, strict=True)}


@pytest.mark.parametrize(
    ("tests", "word"),
    [
        (([50, 51, 52], [40, 41, 42], [30, 31, 32]), "held on"),
        (([50, 51, 52], [40, 41, 42], [39, 41, 43]), "held in part on"),
        (([50, 51, 52], [49, 53, 50], [40, 41, 42]), "held in part on"),
        (([50, 51, 52], [49, 51, 53], [48, 50, 56]), "was not shown on"),
        (([30, 31, 32], [40, 41, 42], [50, 51, 52]), "was not shown on"),
        (([math.inf, 50, 51], [40, 41, 42], [30, 31, 32]), "held in part on"),
        (([36.7], [33.7], [30.3]), "was not decided, by one run each which point"),
        (([36.7], [37.7], [38.3]), "was not decided, by one run each which do not"),
    ],
)
def test_verdicts(tests: tuple[list[float], ...], word: str) -> None:
    assert verdict(corpus(), results(*tests)).startswith(word)


def test_a_change_has_welchs_interval() -> None:
    one = change([40.0, 41.0, 42.0], [50.0, 51.0, 53.0])
    assert one.mean == pytest.approx(-20.1, abs=0.1)
    assert one.interval[0] < one.mean < one.interval[1] < 0
    assert str(change([30.0], [40.0])) == "-25.0 %"
