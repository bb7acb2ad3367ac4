"""Corpora: reading, numbering of words, refusals."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.errors import UserError
from impala_mi.reproductions.language_model import corpus as module
from impala_mi.reproductions.language_model.corpus import (
    END,
    UNKNOWN,
    WIKITEXT_103,
    Corpus,
    number_words,
    python_documentation,
    read_corpus,
)

LINES = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=5), min_size=1, max_size=8)


def write(folder: Path, train: str, valid: str = "a b\n", test: str = "b\n") -> str:
    for split, text in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"wiki.{split}.tokens").write_text(text, encoding="utf-8")
    return str(folder)


def words(corpus: Corpus, split: str) -> list[str]:
    return [corpus.vocabulary[number] for number in getattr(corpus, split).tolist()]


def test_words_lines_and_unknown_words(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path, " = b = \n \n b a <unk> b \n", valid="a zebra\n\n", test="ä b"))
    assert words(corpus, "train") == ["=", "b", "=", END, END, "b", "a", UNKNOWN, "b", END]
    assert words(corpus, "valid") == ["a", UNKNOWN, END, END]
    assert words(corpus, "test") == [UNKNOWN, "b", END]
    assert corpus.vocabulary == [END, "b", "=", "a", UNKNOWN]
    assert corpus.train.dtype == torch.int32
    assert corpus.counts == {"train": 10, "valid": 4, "test": 3, "vocabulary": 5}
    assert corpus.name == tmp_path.name
    assert not corpus.is_wikitext_103


def test_wikitext_103_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WIKITEXT_103", {"train": 2, "valid": 3, "test": 2, "vocabulary": 2})
    assert read_corpus(write(tmp_path, "b\n", valid="b b\n")).name == "WikiText-103"


@given(LINES, LINES)
def test_numbers_stand_for_the_words_and_fall_in_frequency(train: list[list[str]], other: list[list[str]]) -> None:
    corpus = number_words("n", {"train": [*train, [UNKNOWN]], "valid": other, "test": []})
    assert words(corpus, "train") == [word for line in [*train, [UNKNOWN]] for word in [*line, END]]
    known = set(corpus.vocabulary)
    assert words(corpus, "valid") == [w if w in known else UNKNOWN for line in other for w in [*line, END]]
    times = torch.bincount(corpus.train, minlength=len(corpus.vocabulary)).tolist()
    assert times == sorted(times, reverse=True)
    assert min(times) >= 1


def test_wikitext_103_is_known_by_its_counts() -> None:
    def text(length: int) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.int32).expand(length)

    lengths = [text(WIKITEXT_103[split]) for split in module.SPLITS]
    assert Corpus("w", ["x"] * 267_735, *lengths).is_wikitext_103
    assert not Corpus("w", ["x"] * 267_734, *lengths).is_wikitext_103
    assert not Corpus("w", ["x"] * 267_735, *lengths[:2], text(245_570)).is_wikitext_103


def test_a_missing_file_is_named_with_its_source(tmp_path: Path) -> None:
    write(tmp_path, "a\n")
    (tmp_path / "wiki.valid.tokens").unlink()
    with pytest.raises(UserError, match=r"no wiki\.valid\.tokens.*Salesforce/wikitext"):
        read_corpus(str(tmp_path))
    with pytest.raises(UserError, match=r"--corpus 'nowhere' is no folder.*Salesforce"):
        read_corpus("nowhere")


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (("a b\n", "a\n", ""), r"wiki\.test\.tokens is empty"),
        (("a b\n", "a new\n"), "'new' of the validation or test text is not in"),
    ],
)
def test_corpora_that_cannot_be_used(tmp_path: Path, texts: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_corpus(write(tmp_path, *texts))


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    write(tmp_path, "a b\n")
    (tmp_path / "wiki.test.tokens").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"wiki\.\w+\.tokens cannot be read as UTF-8"):
        read_corpus(str(tmp_path))


@pytest.mark.slow
def test_python_documents_itself_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "stdlib_module_names", frozenset({"argparse", "json", "logging", "antigravity", "ssl"})
    )
    corpus = python_documentation()
    again = python_documentation()
    assert corpus.vocabulary == again.vocabulary
    for split in module.SPLITS:
        assert torch.equal(getattr(corpus, split), getattr(again, split))
        assert len(getattr(corpus, split)) > 1_000
    assert sys.version.split()[0] in corpus.name
    times = torch.bincount(corpus.train).tolist()
    rare = {word for word, n in zip(corpus.vocabulary, times, strict=True) if n < module.MIN_COUNT}
    assert not rare
    assert {"python", "statement", UNKNOWN} < set(corpus.vocabulary)
