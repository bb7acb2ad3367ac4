"""Figure 3."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from impala_mi.reproductions.regression.models import MODELS, OURS
from impala_mi.reproductions.regression.training import POINTS

COLOURS = {"conditional MLP": "tab:blue", "multiheaded MLP": "tab:orange", OURS: "tab:green"}


def draw(by: Mapping[int, np.ndarray], kinds: Sequence[int], steps: int) -> Figure:
    """Mean curves and their standard errors: a column a number of tasks, a row a kind of tasks."""
    figure = Figure(figsize=(4.1 * len(by), 0.6 + 3.3 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(by), sharex=True, sharey="row", squeeze=False)
    at = (np.arange(POINTS) + 1) * steps / POINTS
    for row, kind in zip(panels, kinds, strict=True):
        for axes, (tasks, log) in zip(row, by.items(), strict=True):
            for model, curve in zip(MODELS, log[..., kind], strict=True):  # [P, R]
                mean, error = curve.mean(-1), stats.sem(curve, axis=-1)
                (line,) = axes.plot(at, mean, label=model, linewidth=1.5, color=COLOURS[model])
                axes.fill_between(at, mean - error, mean + error, color=line.get_color(), alpha=0.25, linewidth=0)
            axes.set_title(f"{tasks} tasks" + ("", ": affine", ": sines")[kind])
            axes.grid(alpha=0.3)
        row[0].set_ylabel("log10 of the training error")
    for axes in panels[-1]:
        axes.set_xlabel("training steps")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
