"""Figure 5(b)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from impala_mi.reproductions.language_model.corpus import Corpus
from impala_mi.reproductions.language_model.model import KINDS, Kind


def draw(corpus: Corpus, checks: int, found: Mapping[Kind, Sequence[Mapping[str, Any]]]) -> Figure:
    """Validation perplexity by epoch, `checks` times in each, and against the LSTM's: means, ranges over seeds."""
    drawn = Figure(figsize=(10, 4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    length = min(len(one["valid"]) for ones in found.values() for one in ones)
    epochs = np.arange(1, length + 1) / checks
    baseline = np.mean([one["valid"][:length] for one in found["LSTM"]], 0)
    for kind in KINDS:
        curves = np.array([one["valid"][:length] for one in found[kind]])
        for axes, values in ((left, curves), (right, 100 * (curves / baseline - 1))):
            (line,) = axes.plot(epochs, values.mean(0), marker="o", markersize=3, label=kind)
            axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    left.set(ylabel="validation perplexity", yscale="log")
    right.set(ylabel="against the LSTM's mean (%)")
    for axes in (left, right):
        axes.set(xlabel=f"epochs of {corpus.counts['train']:,} tokens", title=corpus.name)
        axes.grid(alpha=0.3, which="both")
    left.yaxis.set_minor_formatter("{x:.0f}")
    left.yaxis.set_major_formatter("{x:.0f}")
    left.legend()
    return drawn
