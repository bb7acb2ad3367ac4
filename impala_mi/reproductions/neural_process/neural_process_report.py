"""Comparison of the decoders by their held-out errors, with tables and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from impala_mi.analysis.stats import LEVEL, bonferroni, crossed_interval
from impala_mi.reproductions.neural_process.held_out import CONTEXTS, EXAMPLES, WEIGHTS
from impala_mi.reproductions.study_report import Cell, ResultTable, StudyReport, as_numbers

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
PAIRS = [(name, mi) for mi in READINGS for name in NAMES if name not in READINGS]
"""Differences that a page reports: of every MLP from every reading of the multiplicative decoder."""
CONVERGED = 0.01
"""Largest fall of an error in the last quarter, in nats, that counts as converged."""
CLAIM = (
    "multiplicative forms are better able to condition on latent information than the baseline MLPs, of which one "
    "has skip connections from the latent to each layer (section 7, figure 5(a))."
)
Interval = tuple[float, float]
"""A mean and half of its interval."""
Results = Mapping[str, Mapping[str, Any]]
"""Results of a part by decoder."""
_COLOURS = colormaps["tab10"]
_DASHED = {"color": "0.2", "linestyle": "--", "linewidth": 1.3}


def report_from_data(data: Mapping[str, Any]) -> StudyReport:
    """Compare the decoders by their errors on held-out functions.

    Args:
        data: `protocol` (fields of `NeuralProcessProtocol`), `decoders` (results of each part), `gaussian process`
            (its errors and predictions) and `examples` (grid, values of each function on it, contexts).
    """
    protocol, results, floor = (as_numbers(data[key]) for key in ("protocol", "decoders", "gaussian process"))
    falls = {name: _late_fall(result["curve"], protocol["steps"]) for name, result in results.items()}
    above = differences(results)
    rows: list[list[Cell]] = []
    for name, result in results.items():
        gaps = [format_interval(above[name, mi]) if (name, mi) in above else None for mi in READINGS]
        nll, squared = (format_interval(overall(result[key])) for key in ("nll", "squared"))
        divergence = float(np.mean(result["curve"][-1]["divergence"]))
        rows.append([NAMES[name], result["parameters"], nll, squared, *gaps, divergence, falls[name]])
    nll, squared = (format_interval(overall(floor[key])) for key in ("nll", "squared"))
    rows.append([GP, None, nll, squared, None, None, None, None])
    header = (
        "decoder", "parameters", "NLL per target", "squared error", *(f"NLL above {NAMES[mi]}" for mi in READINGS),
        "KL per target, training", "NLL fell in the last quarter",
    )  # fmt: skip
    title = (
        f"Held-out draws after {protocol['steps']:,} steps, mean over 1 to 50 contexts (intervals of 95 %; those "
        f"of the {len(PAIRS)} differences hold together)"
    )
    tables = [ResultTable(title, header, rows)]
    by = {
        key: {NAMES.get(name, GP): by_contexts(result[key]) for name, result in [*results.items(), ("gp", floor)]}
        for key in ("nll", "squared")
    }
    for key, title in (("nll", "NLL per target"), ("squared", "Squared error")):
        lines = [[name, *map(format_interval, values)] for name, values in by[key].items()]
        tables.append(ResultTable(f"{title} by number of contexts", ("contexts", *map(str, CONTEXTS)), lines))
    smallest = min(overall(result["nll"], floor["nll"])[0] for result in results.values())
    state = "have converged" if max(falls.values()) < CONVERGED else "have not converged"
    return StudyReport(
        claim=CLAIM,
        verdict=f"{verdict(above)} Intervals together of 95 % over {protocol['networks']} networks each and "
        f"{protocol['draws']:,} functions. After {protocol['steps']:,} steps they {state}: the NLL of one fell by "
        f"{max(falls.values()):.2g} in the last quarter, the best is {smallest:.2f} above the {GP}'s.",
        tables=tables,
        figures={
            "curves": draw_curves(results, overall(floor["nll"])[0], protocol["networks"]),
            "contexts": draw_contexts(by["nll"], by["squared"]),
            "functions": draw_functions(results, floor["examples"], data["examples"]),
        },
        data=data,
    )


def differences(results: Results) -> dict[tuple[str, str], Interval]:
    """Held-out NLL of the MLP minus that of the multiplicative decoder, by pair; all intervals hold together."""
    level = bonferroni(len(PAIRS))
    return {(name, mi): overall(results[name]["nll"], results[mi]["nll"], level) for name, mi in PAIRS}


def verdict(above: Mapping[tuple[str, str], Interval]) -> str:
    """How many of the paper's comparisons held: two baselines, and the two readings of the multiplicative decoder.

    A comparison held if the whole interval of the baseline's NLL above the multiplicative decoder's is above 0, and
    came out the other way if it is below 0.
    """
    held = {pair: value > half for pair, (value, half) in above.items()}
    contrary = {pair: value < -half for pair, (value, half) in above.items()}
    claimed = [(name, mi) for mi in READINGS for name in BASELINES]
    texts = []
    for mi in READINGS:
        numbers = ", ".join(
            f"{NAMES[name]} {value:+.3f} ± {half:.3f} "
            f"({'held' if held[name, mi] else 'the contrary' if contrary[name, mi] else 'not shown'})"
            for (name, reading), (value, half) in above.items() if reading == mi
        )  # fmt: skip
        texts.append(f"above {NAMES[mi]}: {numbers}")
    return (
        f"{sum(held[pair] for pair in claimed)} of {len(claimed)} comparisons with the paper's two baselines held, "
        f"{sum(contrary[pair] for pair in claimed)} came out the other way. Held-out NLL per target, in nats, "
        f"{'; '.join(texts)}."
    )


def overall(errors: Mapping[str, Any], other: Mapping[str, Any] | None = None, level: float = LEVEL) -> Interval:
    """Mean over numbers of contexts, of one decoder's errors or of their difference from another's.

    Networks of one seed and functions are compared in pairs: they started, learnt and were measured alike.
    """
    networks, functions = (WEIGHTS @ errors[key] for key in ("networks", "functions"))
    if other is not None:
        networks, functions = networks - WEIGHTS @ other["networks"], functions - WEIGHTS @ other["functions"]
    return crossed_interval(networks, functions, level=level)


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


def draw_functions(results: Results, oracle: Sequence[Mapping[str, Any]], examples: Mapping[str, Any]) -> Figure:
    """Examples, one per row, by decoder: the mean with two standard deviations, and means for some z."""
    predicted = {NAMES[name]: result["examples"] for name, result in results.items()} | {GP: oracle}
    grid, truth = examples["grid"], examples["truth"]
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
            axes.plot(*examples["contexts"][row], "o", color="black", markersize=4, label="contexts")
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
