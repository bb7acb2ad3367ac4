"""Table 1, and whether its order is so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from impala_mi.nn.multiplicative import Diagonal
from impala_mi.reproductions.findings import Cell, Findings, Table
from impala_mi.reproductions.language_model.corpus import WIKITEXT_103, Corpus
from impala_mi.reproductions.language_model.figures import draw
from impala_mi.reproductions.language_model.model import KINDS, Kind, Sizes, parameters
from impala_mi.reproductions.language_model.training import Plan

PAPER: Mapping[Kind, tuple[float, float, str]] = {
    "LSTM": (34.7, 36.7, "88M"),
    "LSTM + MultDec": (31.7, 33.7, "105M"),
    "LSTM + MultEncDec": (28.9, 30.3, "110M"),
}
"""Table 1: perplexity of validation and test, parameters."""
CLAIM = (
    "multiplicative output embeddings boost a word-level LSTM, and multiplicative input embeddings increase the "
    "gain (table 1, test perplexity on WikiText-103: 36.7, 33.7, 30.3)."
)
CONFIDENCE = 1 - 0.05 / 3
"""Of the interval of each of three comparisons, so that all hold together with 95 % (Bonferroni)."""


@dataclass(frozen=True)
class Change:
    """Of one model's test perplexity against another's, in percent."""

    mean: float
    interval: tuple[float, float]
    """Welch's, over seeds, of the logarithm, at `CONFIDENCE`."""

    @property
    def better(self) -> bool:
        """Whether it is surely lower; what diverged decides nothing."""
        return self.interval[1] < 0

    def __str__(self) -> str:
        return f"{self.mean:+.1f} % ({self.interval[0]:+.1f} to {self.interval[1]:+.1f})"


def change(of: Sequence[float], against: Sequence[float]) -> Change:
    """Of perplexities, one a seed; not in pairs, as seeds of different models have nothing in common."""
    one, other = np.log(of), np.log(against)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return Change(math.nan, (math.nan, math.nan))
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(CONFIDENCE)
    return Change(100 * math.expm1(one.mean() - other.mean()), (100 * math.expm1(low), 100 * math.expm1(high)))


def verdict(corpus: Corpus, found: Mapping[Kind, Sequence[Mapping[str, Any]]]) -> str:
    """Held: MultDec below the LSTM, and MultEncDec below MultDec, each with its whole interval.

    In part: one of these, or MultEncDec below the LSTM.
    """
    tests = {kind: [one["test"] for one in found[kind]] for kind in KINDS}
    lstm, decoder, both = KINDS
    changes = {
        "MultDec against the LSTM": change(tests[decoder], tests[lstm]),
        "MultEncDec against MultDec": change(tests[both], tests[decoder]),
        "MultEncDec against the LSTM": change(tests[both], tests[lstm]),
    }
    better, seeds = [one.better for one in changes.values()], len(tests[lstm])
    word = "held" if all(better[:2]) else "held in part" if any(better) else "was not shown"
    other = "" if corpus.is_wikitext_103 else ", which is not WikiText-103"
    return (
        f"{word} on {corpus.name}{other}. Test perplexity "
        + ", ".join(f"{kind} {mean_and_deviation(tests[kind])}" for kind in KINDS)
        + "; "
        + ", ".join(f"{name} {one}" for name, one in changes.items())
        + f"; means and deviations over {seeds} seeds, intervals together of 95 %."
    )


def mean_and_deviation(values: Sequence[float]) -> str:
    """In a table."""
    if not np.isfinite(values).all():
        return "diverged"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def conclude(
    corpus: Corpus, plan: Plan, models: Mapping[Kind, Sizes], found: Mapping[Kind, Sequence[Mapping[str, Any]]]
) -> Findings:
    """What was found, from the parts of each model."""
    rows: list[list[Cell]] = []
    for kind in KINDS:
        best = [min(one["valid"]) for one in found[kind]]
        tests = [one["test"] for one in found[kind]]
        rows.append(
            [
                kind, models[kind].hidden, found[kind][0]["parameters"], mean_and_deviation(best),
                mean_and_deviation(tests), *map(str, PAPER[kind]),
            ]
        )  # fmt: skip
    header = [
        "model",
        "LSTM width",
        "parameters",
        "valid",
        "test",
        "paper: valid",
        "paper: test",
        "paper: parameters",
    ]
    softmax = ", adaptive softmax" if models["LSTM"].adaptive else ""
    return Findings(
        CLAIM,
        verdict(corpus, found),
        [
            Table(f"Perplexity on {corpus.name}{softmax}; the paper's on WikiText-103", header, rows),
            full_size(),
            Table(
                "Corpus: tokens with <eos>, and words",
                ["", *WIKITEXT_103],
                [[corpus.name, *corpus.counts.values()], ["WikiText-103", *WIKITEXT_103.values()]],
            ),
        ],
        {"perplexity": draw(corpus, plan.checks, found)},
        {kind: {"sizes": vars(models[kind]), "runs": list(found[kind])} for kind in KINDS},
    )


def full_size() -> Table:
    """Parameters of the models with the paper's sizes and WikiText-103's words."""
    sizes = Sizes(WIKITEXT_103["vocabulary"])
    counts: list[tuple[str, int, str]] = [(kind, parameters(kind, sizes), PAPER[kind][2]) for kind in KINDS]
    with torch.device("meta"):
        narrow = sum(p.numel() for p in Diagonal(sizes.embedding, sizes.hidden).parameters())
    counts.append(
        ("the encoder as wide as z, not used: see language_model/model.py", counts[1][1] + narrow, counts[2][2])
    )
    return Table(
        "Parameters at the paper's size",
        ["model", "parameters", "paper", "difference"],
        [[name, count, paper, f"{count / float(paper[:-1]) / 1e4 - 100:+.1f} %"] for name, count, paper in counts],
    )
