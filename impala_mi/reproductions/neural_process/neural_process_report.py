"""Comparison of the decoders by their held-out errors, with tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from impala_mi.analysis.stats import crossed_interval
from impala_mi.reproductions.neural_process.decoder_training import NeuralProcessProtocol
from impala_mi.reproductions.neural_process.held_out import (
    CONTEXTS,
    EXAMPLES,
    WEIGHTS,
    Examples,
    oracle_predictions,
)
from impala_mi.reproductions.study_report import Cell, ResultTable, StudyReport

NAMES = {
    "mlp": "MLP",
    "mlp-wide": "MLP, wider",
    "skip-mlp": "Skip MLP",
    "mi-all": "MI on x, z, h",
    "mi-x": "MI on x",
}
"""Names of the decoders in tables and figures."""
GP = "Gaussian process"
BASELINES, READINGS = ("mlp", "skip-mlp"), ("mi-all", "mi-x")
"""Decoders that the paper's claim compares."""
CONVERGED = 0.01
"""Largest fall of an error in the last quarter, in nats, that counts as converged."""
CLAIM = (
    "multiplicative forms are better able to condition on latent information than the baseline MLPs, of which one "
    "has skip connections from the latent to each layer (section 7, figure 5(a))."
)
Interval = tuple[float, float]
"""A mean and half of its 95 % interval."""
Results = Mapping[str, Mapping[str, Any]]
"""Results of a part by decoder."""
_COLOURS = colormaps["tab10"]
_DASHED = {"color": "0.2", "linestyle": "--", "linewidth": 1.3}


def neural_process_report(
    protocol: NeuralProcessProtocol, results: Results, floor: Mapping[str, Any], examples: Examples
) -> StudyReport:
    """Compare the decoders by their errors on held-out functions."""
    falls = {name: _late_fall(result["curve"], protocol.steps) for name, result in results.items()}
    rows: list[list[Cell]] = []
    for name, result in results.items():
        above = [
            None if name == mi else format_interval(overall(result["nll"], results[mi]["nll"])) for mi in READINGS
        ]
        nll, squared = (format_interval(overall(result[key])) for key in ("nll", "squared"))
        divergence = float(np.mean(result["curve"][-1]["divergence"]))
        rows.append([NAMES[name], result["parameters"], nll, squared, *above, divergence, falls[name]])
    nll, squared = (format_interval(overall(floor[key])) for key in ("nll", "squared"))
    rows.append([GP, None, nll, squared, None, None, None, None])
    header = (
        "decoder", "parameters", "NLL per target", "squared error", *(f"NLL above {NAMES[mi]}" for mi in READINGS),
        "KL per target, training", "NLL fell in the last quarter",
    )  # fmt: skip
    title = f"Held-out draws after {protocol.steps:,} steps, mean over 1 to 50 contexts"
    tables = [ResultTable(title, header, rows)]
    by = {
        key: {NAMES.get(name, GP): by_contexts(result[key]) for name, result in [*results.items(), ("gp", floor)]}
        for key in ("nll", "squared")
    }
    for key, title in (("nll", "NLL per target"), ("squared", "Squared error")):
        lines = [[name, *map(format_interval, values)] for name, values in by[key].items()]
        tables.append(ResultTable(f"{title} by number of contexts", ("contexts", *map(str, CONTEXTS)), lines))
    return StudyReport(
        claim=CLAIM,
        verdict=verdict(protocol, results, floor, max(falls.values())),
        tables=tables,
        figures={
            "curves": draw_curves(results, overall(floor["nll"])[0], protocol.networks),
            "contexts": draw_contexts(by["nll"], by["squared"]),
            "functions": draw_functions(results, examples),
        },
        data={"protocol": asdict(protocol), "decoders": results, "gaussian process": floor, "contexts": CONTEXTS},
    )


def verdict(protocol: NeuralProcessProtocol, results: Results, floor: Mapping[str, Any], fall: float) -> str:
    """Verdict: it held if the held-out NLL of both baselines is above MI's in both readings, by 95 % intervals.

    It held in part if that of one baseline is above it in one reading.
    """
    held, texts = [], []
    for mi in READINGS:
        above = {
            name: overall(result["nll"], results[mi]["nll"])
            for name, result in results.items() if name not in READINGS
        }  # fmt: skip
        held += [above[name][0] - above[name][1] > 0 for name in BASELINES]
        numbers = ", ".join(f"{NAMES[name]} {value:+.3f} ± {half:.3f}" for name, (value, half) in above.items())
        texts.append(f"above {NAMES[mi]} ({format_interval(overall(results[mi]['nll']))} nats) {numbers}")
    text = "it held" if all(held) else "it held in part" if any(held) else "it did not hold"
    smallest = min(overall(result["nll"], floor["nll"])[0] for result in results.values())
    state = "have converged" if fall < CONVERGED else "have not converged"
    return (
        f"{text}. Held-out NLL per target {'; '.join(texts)} (95 % over {protocol.networks} networks each and "
        f"{protocol.draws:,} functions; the criterion is the paper's two baselines). After {protocol.steps:,} "
        f"steps they {state}: the NLL of one fell by {fall:.2g} in the last quarter, the best is {smallest:.2f} "
        f"above the {GP}'s."
    )


def overall(errors: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Interval:
    """Mean over numbers of contexts, of one decoder's errors or of their difference from another's.

    Networks of one seed and functions are compared in pairs: they started, learnt and were measured alike.
    """
    networks, functions = (WEIGHTS @ errors[key] for key in ("networks", "functions"))
    if other is not None:
        networks, functions = networks - WEIGHTS @ other["networks"], functions - WEIGHTS @ other["functions"]
    return crossed_interval(networks, functions)


def by_contexts(errors: Mapping[str, Any]) -> list[Interval]:
    """Mean error for each number of contexts."""
    pairs = zip(errors["networks"], errors["functions"], strict=True)
    return [crossed_interval(np.array(networks), np.array(functions)) for networks, functions in pairs]


def format_interval(interval: Interval) -> str:
    """A mean and half of its interval, with as many digits as the latter allows."""
    value, half = interval
    digits = max(0, 1 - int(np.floor(np.log10(half)))) if half > 0 else 3
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def _late_fall(curve: Sequence[Mapping[str, Any]], steps: int) -> float:
    """Fall of the NLL in the last quarter of the steps."""
    late = next(point for point in curve if point["step"] >= 0.75 * steps)
    return float(np.mean(late["nll"]) - np.mean(curve[-1]["nll"]))


def _legend(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or len(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def draw_curves(results: Results, floor: float, networks: int) -> Figure:
    """Figure 5(a): the training loss, and the error on held-out functions, over training steps."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, 2)
    steps = [point["step"] for point in results["mlp"]["curve"]]
    for number, (name, result) in enumerate(results.items()):
        for axes, key in zip(panels, ("loss", "nll"), strict=True):
            mean, half = np.array([crossed_interval(np.array(point[key])) for point in result["curve"]]).T
            axes.plot(steps, mean, color=_COLOURS(number), label=NAMES[name], linewidth=1.6)
            axes.fill_between(steps, mean - half, mean + half, color=_COLOURS(number), alpha=0.15, linewidth=0)
    panels[1].axhline(floor, label=GP, **_DASHED)
    panels[0].set(title="training draws (each is seen once)", ylabel="negative ELBO per target (nats)")
    panels[1].set(
        title="held-out draws, mean over 1 to 50 contexts", ylabel="negative log-likelihood per target (nats)"
    )
    for axes in panels:
        axes.set_xlabel("training steps")
        axes.grid(alpha=0.3)
    _legend(figure, panels[1])
    figure.suptitle(f"{networks} networks each, 95 % intervals of their mean", fontsize=10)
    return figure


def draw_contexts(nll: Mapping[str, Sequence[Interval]], squared: Mapping[str, Sequence[Interval]]) -> Figure:
    """Errors on held-out functions by the number of contexts."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, errors, key in zip(panels, (nll, squared), ("nll", "squared"), strict=True):
        for number, (name, values) in enumerate(errors.items()):
            mean, half = np.array(values).T
            if name == GP:
                axes.plot(CONTEXTS, mean, label=f"{name}, told the length scale", **_DASHED)
                continue
            # Decoders are shifted sideways to keep their intervals apart.
            x = np.array(CONTEXTS) * 1.03 ** (number - (len(errors) - 1) / 2)
            low = np.minimum(half, 0.95 * mean) if key == "squared" else half  # a logarithm needs more than zero
            style = {"color": _COLOURS(number), "marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.4}
            axes.errorbar(x, mean, yerr=(low, half), label=name, **style)
        axes.set_xscale("log")
        axes.set_xticks(CONTEXTS, [str(c) for c in CONTEXTS])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("contexts")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("negative log-likelihood per target (nats)")
    panels[1].set(ylabel="mean squared error of the mean (variance of y: 1)", yscale="log")
    _legend(figure, panels[0])
    return figure


def draw_functions(results: Results, examples: Examples) -> Figure:
    """Examples, one per row, by decoder: the mean with two standard deviations, and means for some z."""
    predicted = {NAMES[name]: result["examples"] for name, result in results.items()}
    predicted[GP] = oracle_predictions(examples)
    grid, truth = examples.grid[0].tolist(), examples.truth.tolist()
    figure = Figure(figsize=(2.7 * len(predicted), 2.5 * len(truth)), layout="constrained")
    panels = figure.subplots(len(truth), len(predicted), sharex=True, sharey="row", squeeze=False)
    for column, (name, rows) in enumerate(predicted.items()):
        panels[0][column].set_title(name, fontsize=9)
        colour = _COLOURS(column) if column < len(predicted) - 1 else "0.4"
        for row, prediction in enumerate(rows):
            axes = panels[row][column]
            mean, sd = np.array(prediction["mean"]), np.array(prediction["sd"])
            axes.fill_between(grid, mean - 2 * sd, mean + 2 * sd, color=colour, alpha=0.18, linewidth=0)
            for line in prediction["lines"]:
                axes.plot(grid, line, color=colour, linewidth=0.7, alpha=0.6)
            axes.plot(grid, mean, color=colour, linewidth=1.8, label="mean, two standard deviations")
            axes.plot(grid, truth[row], color="black", linewidth=1, linestyle="--", label="function")
            x, y = examples.x[row][0].tolist(), examples.y[row][0].tolist()
            axes.plot(x, y, "o", color="black", markersize=4, label="contexts")
            axes.grid(alpha=0.25)
    for row, (length, _) in enumerate(EXAMPLES):
        panels[row][0].set_ylabel(f"length scale {length:g}\ny", fontsize=9)
        low, high = min(truth[row]), max(truth[row])
        margin = 0.75 * max(high - low, 1.0)
        panels[row][0].set_ylim(low - margin, high + margin)
    for axes in panels[-1]:
        axes.set_xlabel("x")
    _legend(figure, panels[0][0], columns=3)
    return figure
