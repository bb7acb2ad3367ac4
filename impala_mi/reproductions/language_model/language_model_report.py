"""Table 1 and figure 5(b), and whether their order holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from impala_mi.analysis.stats import bonferroni, welch_interval
from impala_mi.nn.meta import num_parameters
from impala_mi.nn.multiplicative import Diagonal
from impala_mi.reproductions.language_model.corpus import WIKITEXT_103
from impala_mi.reproductions.language_model.word_lstm import KINDS, Kind, LanguageModelSizes, model_parameters
from impala_mi.reproductions.study_report import Cell, ResultTable, StudyReport

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
Results = Mapping[Kind, Sequence[Mapping[str, Any]]]
"""Results of the parts of each model, one per seed."""
CorpusFacts = Mapping[str, Any]
"""Name and counts of a corpus."""


@dataclass(frozen=True)
class PerplexityChange:
    """One model's test perplexity against another's, in percent."""

    mean: float
    interval: tuple[float, float]
    """Welch's interval over seeds, of the logarithm; three of them hold together with 95 %."""

    @property
    def better(self) -> bool:
        """Whether it is surely lower; False if a run diverged."""
        return self.interval[1] < 0

    def __str__(self) -> str:
        return f"{self.mean:+.1f} % ({self.interval[0]:+.1f} to {self.interval[1]:+.1f})"


def perplexity_change(model: Sequence[float], baseline: Sequence[float]) -> PerplexityChange:
    """Change between perplexities, one per seed; seeds are not paired, as they mean nothing across models."""
    a, b = np.log(model), np.log(baseline)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return PerplexityChange(math.nan, (math.nan, math.nan))
    low, high = welch_interval(a, b, bonferroni(3))
    return PerplexityChange(100 * math.expm1(a.mean() - b.mean()), (100 * math.expm1(low), 100 * math.expm1(high)))


def verdict(corpus: CorpusFacts, results: Results) -> str:
    """Verdict: it held if MultDec is below the LSTM and MultEncDec below MultDec, by their whole intervals.

    It held in part if one of these is so, or if MultEncDec is below the LSTM.
    """
    tests = {kind: [run["test"] for run in results[kind]] for kind in KINDS}
    lstm, decoder, both = KINDS
    changes = {
        "MultDec against the LSTM": perplexity_change(tests[decoder], tests[lstm]),
        "MultEncDec against MultDec": perplexity_change(tests[both], tests[decoder]),
        "MultEncDec against the LSTM": perplexity_change(tests[both], tests[lstm]),
    }
    better = [change.better for change in changes.values()]
    word = "held" if all(better[:2]) else "held in part" if any(better) else "was not shown"
    note = "" if corpus["counts"] == WIKITEXT_103 else ", which is not WikiText-103"
    return (
        f"{word} on {corpus['name']}{note}. Test perplexity "
        + ", ".join(f"{kind} {mean_and_deviation(tests[kind])}" for kind in KINDS)
        + "; "
        + ", ".join(f"{name} {change}" for name, change in changes.items())
        + f"; means and deviations over {len(tests[lstm])} seeds, intervals together of 95 %."
    )


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean and standard deviation as text."""
    if not np.isfinite(values).all():
        return "diverged"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def report_from_data(data: Mapping[str, Any]) -> StudyReport:
    """Tables, figure and verdict.

    Args:
        data: `corpus` (name and counts), `checks` (validations of an epoch) and `models`: the sizes of each and the
            results of its parts. Perplexities that are None are infinite.
    """
    corpus, models = data["corpus"], data["models"]
    results: Results = {
        kind: [
            run | {"test": _perplexity(run["test"]), "valid": list(map(_perplexity, run["valid"]))}
            for run in models[kind]["runs"]
        ]
        for kind in KINDS
    }
    rows: list[list[Cell]] = []
    for kind in KINDS:
        runs = results[kind]
        best = mean_and_deviation([min(run["valid"]) for run in runs])
        test = mean_and_deviation([run["test"] for run in runs])
        rows.append(
            [kind, models[kind]["sizes"]["hidden"], runs[0]["parameters"], best, test, *map(str, PAPER[kind])]
        )
    header = [
        "model", "LSTM width", "parameters", "valid", "test", "paper: valid", "paper: test", "paper: parameters"
    ]  # fmt: skip
    softmax = ", adaptive softmax" if models["LSTM"]["sizes"]["adaptive"] else ""
    return StudyReport(
        CLAIM,
        verdict(corpus, results),
        [
            ResultTable(f"Perplexity on {corpus['name']}{softmax}; the paper's on WikiText-103", header, rows),
            full_size_table(),
            ResultTable(
                "Corpus: tokens with <eos>, and words",
                ["", *WIKITEXT_103],
                [
                    [corpus["name"], *(corpus["counts"][key] for key in WIKITEXT_103)],
                    ["WikiText-103", *WIKITEXT_103.values()],
                ],
            ),
        ],
        {"perplexity": draw(corpus, data["checks"], results)},
        data,
    )


def _perplexity(value: float | None) -> float:
    return math.inf if value is None else value


def full_size_table() -> ResultTable:
    """Numbers of parameters at the paper's sizes and WikiText-103's vocabulary."""
    sizes = LanguageModelSizes(WIKITEXT_103["vocabulary"])
    counts: list[tuple[str, int, str]] = [(kind, model_parameters(kind, sizes), PAPER[kind][2]) for kind in KINDS]
    with torch.device("meta"):
        narrow = num_parameters(Diagonal(sizes.embedding, sizes.hidden))
    name = "the encoder as wide as z, not used: see language_model/word_lstm.py"
    counts.append((name, counts[1][1] + narrow, counts[2][2]))
    return ResultTable(
        "Parameters at the paper's size",
        ["model", "parameters", "paper", "difference"],
        [[name, count, paper, f"{count / float(paper[:-1]) / 1e4 - 100:+.1f} %"] for name, count, paper in counts],
    )


def draw(corpus: CorpusFacts, checks: int, results: Results) -> Figure:
    """Validation perplexity by epoch, and relative to the LSTM's: means, and ranges over seeds."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    absolute, relative = figure.subplots(1, 2)
    length = min(len(run["valid"]) for runs in results.values() for run in runs)
    epochs = np.arange(1, length + 1) / checks
    curves = {kind: np.array([run["valid"][:length] for run in results[kind]]) for kind in KINDS}
    baseline = curves["LSTM"].mean(0)
    for kind in KINDS:
        for axes, values in ((absolute, curves[kind]), (relative, 100 * (curves[kind] / baseline - 1))):
            (line,) = axes.plot(epochs, values.mean(0), marker="o", markersize=3, label=kind)
            axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    absolute.set(ylabel="validation perplexity", yscale="log")
    relative.set(ylabel="against the LSTM's mean (%)")
    for axes in (absolute, relative):
        axes.set(xlabel=f"epochs of {corpus['counts']['train']:,} tokens", title=corpus["name"])
        axes.grid(alpha=0.3, which="both")
    absolute.yaxis.set_minor_formatter("{x:.0f}")
    absolute.yaxis.set_major_formatter("{x:.0f}")
    absolute.legend()
    return figure
