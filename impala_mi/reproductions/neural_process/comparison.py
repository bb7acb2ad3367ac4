"""Which decoder is better, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from impala_mi.reproductions.findings import Cell, Findings, Table
from impala_mi.reproductions.neural_process.evaluation import CONTEXTS, EXAMPLES, WEIGHTS, Examples, best
from impala_mi.reproductions.neural_process.figures import draw_contexts, draw_curves, draw_functions
from impala_mi.reproductions.neural_process.training import Protocol

NAMES = {
    "mlp": "MLP",
    "mlp-wide": "MLP, wider",
    "skip-mlp": "Skip MLP",
    "mi-all": "MI on x, z, h",
    "mi-x": "MI on x",
}
GP = "Gaussian process"
BASELINES, READINGS = ("mlp", "skip-mlp"), ("mi-all", "mi-x")
"""The paper's decoders."""
CONVERGED = 0.01
"""Nats that the error of any decoder may fall in the last quarter."""
CLAIM = (
    "multiplicative forms are better able to condition on latent information than the baseline MLPs, of which one "
    "has skip connections from the latent to each layer (section 7, figure 5(a))."
)


def findings(
    protocol: Protocol, found: Mapping[str, Mapping[str, Any]], floor: Mapping[str, Any], examples: Examples
) -> Findings:
    """Compare the decoders by their errors on held-out functions."""
    fell = {name: _fell(one["curve"], protocol.steps) for name, one in found.items()}
    rows: list[list[Cell]] = []
    for name, one in found.items():
        above = [None if name == mi else shown(overall(one["nll"], found[mi]["nll"])) for mi in READINGS]
        nll, squared = shown(overall(one["nll"])), shown(overall(one["squared"]))
        divergence = float(np.mean(one["curve"][-1]["divergence"]))
        rows.append([NAMES[name], one["parameters"], nll, squared, *above, divergence, fell[name]])
    rows.append([GP, None, shown(overall(floor["nll"])), shown(overall(floor["squared"])), None, None, None, None])
    header = (
        "decoder", "parameters", "NLL per target", "squared error", *(f"NLL above {NAMES[mi]}" for mi in READINGS),
        "KL per target, training",
        "NLL fell in the last quarter",
    )  # fmt: skip
    tables = [Table(f"Held-out draws after {protocol.steps:,} steps, mean over 1 to 50 contexts", header, rows)]
    by = {
        key: {NAMES.get(name, GP): by_contexts(one[key]) for name, one in [*found.items(), ("gp", floor)]}
        for key in ("nll", "squared")
    }
    for key, title in (("nll", "NLL per target"), ("squared", "Squared error")):
        lines = [[name, *map(shown, values)] for name, values in by[key].items()]
        tables.append(Table(f"{title} by number of contexts", ("contexts", *map(str, CONTEXTS)), lines))
    return Findings(
        claim=CLAIM,
        verdict=verdict(protocol, found, floor, max(fell.values())),
        tables=tables,
        figures=_figures(protocol, found, by, overall(floor["nll"])[0], examples),
        data={"protocol": asdict(protocol), "decoders": found, "gaussian process": floor, "contexts": CONTEXTS},
    )


def verdict(
    protocol: Protocol, found: Mapping[str, Mapping[str, Any]], floor: Mapping[str, Any], fell: float
) -> str:
    """It held where the held-out NLL of both baselines is above MI's, in 95 % intervals and in both readings.

    In part: where that of some baseline is, in some reading.
    """
    held, texts = [], []
    for mi in READINGS:
        above = {name: overall(one["nll"], found[mi]["nll"]) for name, one in found.items() if name not in READINGS}
        held += [above[name][0] - above[name][1] > 0 for name in BASELINES]
        numbers = ", ".join(f"{NAMES[name]} {value:+.3f} ± {half:.3f}" for name, (value, half) in above.items())
        texts.append(f"above {NAMES[mi]} ({shown(overall(found[mi]['nll']))} nats) {numbers}")
    text = "it held" if all(held) else "it held in part" if any(held) else "it did not hold"
    left = min(overall(one["nll"], floor["nll"])[0] for one in found.values())
    state = "have converged" if fell < CONVERGED else "have not converged"
    return (
        f"{text}. Held-out NLL per target {'; '.join(texts)} (95 % over {protocol.networks} networks each and "
        f"{protocol.draws:,} functions; the criterion is the paper's two baselines). After {protocol.steps:,} "
        f"steps they {state}: the NLL of one fell by {fell:.2g} in the last quarter, and the best is {left:.2f} "
        f"above the {GP}'s."
    )


def interval(networks: np.ndarray, functions: np.ndarray) -> tuple[float, float]:
    """A mean over networks and held-out functions, and half of its 95 % interval.

    Both are samples, and each network meets each function: the half is the root of the summed squares of the two
    that either sample has alone (Student's t).

    Args:
        networks: mean over functions of each network [K]; one alone has no spread.
        functions: mean over networks of each function [D].
    """
    samples = [some for some in (networks, functions) if len(some) > 1]
    halves = [stats.t.ppf(0.975, len(some) - 1) * some.std(ddof=1) / np.sqrt(len(some)) for some in samples]
    return float(networks.mean()), float(np.linalg.norm(halves))


def overall(one: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> tuple[float, float]:
    """Mean over numbers of contexts with half of its interval, of one decoder or of its difference from another.

    Networks of one seed and functions are compared in pairs: they began, learnt and were judged alike.
    """
    networks, functions = (WEIGHTS @ one[key] for key in ("networks", "functions"))
    if other is not None:
        networks, functions = networks - WEIGHTS @ other["networks"], functions - WEIGHTS @ other["functions"]
    return interval(networks, functions)


def by_contexts(one: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Means with half of their intervals for each number of contexts."""
    pairs = zip(one["networks"], one["functions"], strict=True)
    return [interval(np.array(networks), np.array(functions)) for networks, functions in pairs]


def shown(found: tuple[float, float]) -> str:
    """A mean and half of its interval, in the digits that the latter leaves."""
    value, half = found
    digits = max(0, 1 - int(np.floor(np.log10(half)))) if half > 0 else 3
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def _fell(curve: Sequence[Mapping[str, Any]], steps: int) -> float:
    late = next(point for point in curve if point["step"] >= 0.75 * steps)
    return float(np.mean(late["nll"]) - np.mean(curve[-1]["nll"]))


def _figures(
    protocol: Protocol,
    found: Mapping[str, Mapping[str, Any]],
    by: Mapping[str, Mapping[str, list[tuple[float, float]]]],
    floor: float,
    examples: Examples,
) -> dict[str, Figure]:
    steps = [point["step"] for point in found["mlp"]["curve"]]
    drawn = {
        key: {NAMES[name]: [_over_networks(point[key]) for point in one["curve"]] for name, one in found.items()}
        for key in ("loss", "nll")
    }
    title = f"{protocol.networks} networks each, 95 % intervals of their mean"
    shown = {NAMES[name]: one["examples"] for name, one in found.items()} | {GP: best(examples)}
    contexts = [(x[0].tolist(), y[0].tolist()) for x, y in zip(examples.x, examples.y, strict=True)]
    return {
        "curves": draw_curves(steps, drawn["loss"], drawn["nll"], floor, title),
        "contexts": draw_contexts(CONTEXTS, by["nll"], by["squared"], GP),
        "functions": draw_functions(
            examples.grid[0].tolist(), examples.truth.tolist(), contexts, shown,
            [f"length scale {length:g}" for length, _ in EXAMPLES],
        ),
    }  # fmt: skip


def _over_networks(values: Sequence[float]) -> tuple[float, float]:
    return interval(np.array(values), np.zeros(2))
