"""Corpora for language models: folders in WikiText's format, and Python's own documentation."""

import ast
import re
import sys
import sysconfig
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from impala_mi.errors import UserError

SPLITS = ("train", "valid", "test")
END, UNKNOWN = "<eos>", "<unk>"
WIKITEXT_103 = {"train": 103_227_021, "valid": 217_646, "test": 245_569, "vocabulary": 267_735}
"""Tokens with one <eos> per line, and words with <eos> and <unk>, as published without checksums."""

REQUIRED_FILES = (
    "a folder with the plain texts wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens is needed. The "
    "paper's corpus is WikiText-103 at word level (Merity et al., 2016): on Hugging Face Salesforce/wikitext, "
    "configuration wikitext-103-v1, the text of each row as a line of its split's file"
)

MIN_COUNT = 10
"""Rarer words of Python's documentation become <unk>."""


@dataclass(frozen=True)
class Corpus:
    """Three texts as numbers of words, int32."""

    name: str
    vocabulary: list[str]
    """Words of the training text, the most frequent first; a word's number is its index."""
    train: Int[Tensor, " N"]
    valid: Int[Tensor, " N"]
    test: Int[Tensor, " N"]

    @property
    def counts(self) -> dict[str, int]:
        """Number of tokens in each text, and of words."""
        return {split: len(getattr(self, split)) for split in SPLITS} | {"vocabulary": len(self.vocabulary)}

    @property
    def is_wikitext_103(self) -> bool:
        """Whether every count is that of WikiText-103."""
        return self.counts == WIKITEXT_103


def corpus_files(folder: str) -> dict[str, Path]:
    """The three files by split. Raises `UserError`, which says where to get them, if one is missing."""
    if not Path(folder).is_dir():
        raise UserError(f"--corpus {folder!r} is no folder; {REQUIRED_FILES}")
    paths = {split: Path(folder) / f"wiki.{split}.tokens" for split in SPLITS}
    for path in paths.values():
        if not path.is_file():
            raise UserError(f"--corpus {folder!r}: no {path.name}; {REQUIRED_FILES}")
    return paths


def read_corpus(folder: str) -> Corpus:
    """Read wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens: words between spaces, one <eos> a line.

    Raises:
        UserError: a file is missing, empty or not UTF-8, or has a word that the training text lacks although it has
            no <unk>.
    """
    paths = corpus_files(folder)
    try:
        corpus = number_words(Path(folder).resolve().name, {split: _lines(file) for split, file in paths.items()})
    except KeyError as e:
        raise UserError(
            f"--corpus {folder!r}: {e.args[0]!r} of the validation or test text is not in wiki.train.tokens, which "
            f"has no {UNKNOWN} either; WikiText's own files have one"
        ) from None
    for split, file in paths.items():
        if not corpus.counts[split]:
            raise UserError(f"--corpus {folder!r}: {file.name} is empty")
    return replace(corpus, name="WikiText-103") if corpus.is_wikitext_103 else corpus


def _lines(file: Path) -> Iterator[list[str]]:
    try:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                yield line.split()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--corpus {str(file.parent)!r}: {file.name} cannot be read as UTF-8 text: {e}") from None


def number_words(name: str, texts: Mapping[str, Iterable[Iterable[str]]]) -> Corpus:
    """Make a corpus from the lines (lists of words) of its three texts; each line gets an <eos>.

    Raises:
        KeyError: the training text lacks a word of another text, and has no <unk> to replace it.
    """
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    end = numbers[END]
    train = array("i")
    for line in texts["train"]:
        train.extend(map(numbers.__getitem__, line))
        train.append(end)
    unknown = numbers.get(UNKNOWN)

    def known(word: str) -> int:
        number = numbers.get(word, unknown)
        if number is None:
            raise KeyError(word)
        return number

    rest = [array("i", (n for line in texts[s] for n in (*map(known, line), end))) for s in ("valid", "test")]
    words = list(numbers)
    by_frequency = np.argsort(-np.bincount(np.asarray(train), minlength=len(words)), kind="stable")
    rank = np.empty(len(words), np.int32)
    rank[by_frequency] = np.arange(len(words), dtype=np.int32)
    ids = (torch.from_numpy(rank[np.asarray(text)]) for text in (train, *rest))
    return Corpus(name, [words[n] for n in by_frequency.tolist()], *ids)


def python_documentation() -> Corpus:
    """Docstrings and help topics of the running Python: about 400,000 words of English about programs.

    Text is in lower case, punctuation is separate, and a paragraph is a line. Of every twenty documents (modules or
    topics) one is for validation and one for the test. No network is needed; the text depends on Python's version.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "--quick reads Python's own documentation, which this installation lacks; use one with the whole "
            "standard library, or --corpus without --quick"
        ) from None
    documents = [*_docstrings(), *(list(_paragraphs(topics[name])) for name in sorted(topics))]
    texts: dict[str, list[list[str]]] = {split: [] for split in SPLITS}
    for number, document in enumerate(documents):
        texts[{9: "valid", 19: "test"}.get(number % 20, "train")] += document
    counts = Counter(word for line in texts["train"] for word in line)
    return number_words(
        f"Python {sys.version.split()[0]}'s documentation",
        {
            split: [[word if counts[word] >= MIN_COUNT else UNKNOWN for word in line] for line in lines]
            for split, lines in texts.items()
        },
    )


def _docstrings() -> Iterator[list[list[str]]]:
    """Paragraphs of each documented module of the standard library; copies of a docstring count once."""
    root, before = Path(sysconfig.get_path("stdlib")), set[str]()
    for name in sorted(sys.stdlib_module_names):
        for file in [root / f"{name}.py", *sorted((root / name).rglob("*.py"))]:
            if not file.is_file() or {"test", "tests", "idle_test"} & set(file.relative_to(root).parts):
                continue
            paragraphs: list[list[str]] = []
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node) or ""
                    paragraphs += [] if text in before else list(_paragraphs(text))
                    before.add(text)
            if paragraphs:
                yield paragraphs


def _paragraphs(text: str) -> Iterator[list[str]]:
    for paragraph in re.split(r"\n\s*\n", text):
        words = re.findall(r"\w+|[^\w\s]+", paragraph.lower())
        if words:
            yield words
