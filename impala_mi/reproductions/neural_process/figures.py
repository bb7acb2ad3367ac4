"""The figures of the neural processes: learning, errors by number of contexts, functions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Intervals = Sequence[tuple[float, float]]
"""Means and halves of their 95 % intervals."""
COLOURS = colormaps["tab10"]
DASHED = {"color": "0.2", "linestyle": "--", "linewidth": 1.3}


def _band(axes: Axes, x: Sequence[float], found: Intervals, number: int, name: str) -> None:
    mean, half = np.array(found).T
    axes.plot(x, mean, color=COLOURS(number), label=name, linewidth=1.6)
    axes.fill_between(x, mean - half, mean + half, color=COLOURS(number), alpha=0.15, linewidth=0)


def draw_curves(
    steps: Sequence[int], loss: Mapping[str, Intervals], nll: Mapping[str, Intervals], floor: float, title: str
) -> Figure:
    """Figure 5(a): what is minimised, and the error on held-out functions, by training steps."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(loss):
        _band(left, steps, loss[name], number, name)
        _band(right, steps, nll[name], number, name)
    right.axhline(floor, label="Gaussian process", **DASHED)
    left.set(title="training draws (each is seen once)", ylabel="negative ELBO per target (nats)")
    right.set(
        title="held-out draws, mean over 1 to 50 contexts", ylabel="negative log-likelihood per target (nats)"
    )
    for axes in (left, right):
        axes.set_xlabel("training steps")
        axes.grid(alpha=0.3)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def draw_contexts(
    contexts: Sequence[int],
    nll: Mapping[str, Intervals],
    squared: Mapping[str, Intervals],
    floor: str,
) -> Figure:
    """Errors on held-out functions by the number of contexts; one of the names is the floor."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    every = figure.subplots(1, 2)
    for axes, found, key in zip(every, (nll, squared), ("nll", "squared"), strict=True):
        for number, (name, values) in enumerate(found.items()):
            mean, half = np.array(values).T
            if name == floor:
                axes.plot(contexts, mean, label=f"{name}, told the length scale", **DASHED)
                continue
            # Beside each other, so that the intervals can be told apart.
            x = np.array(contexts) * 1.03 ** (number - (len(found) - 1) / 2)
            low = np.minimum(half, 0.95 * mean) if key == "squared" else half  # a logarithm needs more than zero
            look = {"color": COLOURS(number), "marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.4}
            axes.errorbar(x, mean, yerr=(low, half), label=name, **look)
        axes.set_xscale("log")
        axes.set_xticks(contexts, [str(c) for c in contexts])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("contexts")
        axes.grid(alpha=0.3)
    every[0].set_ylabel("negative log-likelihood per target (nats)")
    every[1].set(ylabel="mean squared error of the mean (variance of y: 1)", yscale="log")
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def draw_functions(
    grid: Sequence[float],
    truth: Sequence[Sequence[float]],
    contexts: Sequence[tuple[Sequence[float], Sequence[float]]],
    predicted: Mapping[str, Sequence[Mapping[str, Any]]],
    titles: Sequence[str],
) -> Figure:
    """A function a row and a decoder a column: its mean with two standard deviations, and means for some z."""
    figure = Figure(figsize=(2.7 * len(predicted), 2.5 * len(truth)), layout="constrained")
    every = figure.subplots(len(truth), len(predicted), sharex=True, sharey="row", squeeze=False)
    for column, (name, found) in enumerate(predicted.items()):
        every[0][column].set_title(name, fontsize=9)
        colour = COLOURS(column) if column < len(predicted) - 1 else "0.4"
        for row, one in enumerate(found):
            axes = every[row][column]
            mean, sd = np.array(one["mean"]), np.array(one["sd"])
            axes.fill_between(grid, mean - 2 * sd, mean + 2 * sd, color=colour, alpha=0.18, linewidth=0)
            for line in one["lines"]:
                axes.plot(grid, line, color=colour, linewidth=0.7, alpha=0.6)
            axes.plot(grid, mean, color=colour, linewidth=1.8, label="mean, two standard deviations")
            axes.plot(grid, truth[row], color="black", linewidth=1, linestyle="--", label="function")
            axes.plot(*contexts[row], "o", color="black", markersize=4, label="contexts")
            axes.grid(alpha=0.25)
    for row, title in enumerate(titles):
        every[row][0].set_ylabel(f"{title}\ny", fontsize=9)
        low, high = min(truth[row]), max(truth[row])
        room = 0.75 * max(high - low, 1.0)
        every[row][0].set_ylim(low - room, high + room)
    for axes in every[-1]:
        axes.set_xlabel("x")
    handles, labels = every[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
