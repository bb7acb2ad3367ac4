"""Eight words, and models of a few units."""

from pathlib import Path
from typing import Any

from impala_mi.reproductions.language_model.corpus import Corpus, number_words
from impala_mi.reproductions.language_model.language_model_training import LanguageModelProtocol
from impala_mi.reproductions.language_model.word_lstm import LanguageModelSizes
from impala_mi.reproductions.study import Study

SMALL = LanguageModelSizes(11, embedding=6, hidden=5, context=3)
PROTOCOL = LanguageModelProtocol(
    SMALL, equal=False, seeds=2, batch=3, length=4, epochs=3, patience=9, checks=2, learning_rate=0.01
)


def corpus(train: int = 60, other: int = 10) -> Corpus:
    """Eight words in turn, one a line."""

    def text(length: int) -> list[list[str]]:
        return [[f"w{i % 8}"] for i in range(length // 2)]

    return number_words("eight words", {"train": text(train), "valid": text(other), "test": text(other)})


def a_study(folder: Path, **settings: Any) -> Study:
    return Study("language-model", folder, {"quick": True, "seed": 3, "device": "cpu", "corpus": None} | settings)
