"""Figure 5(a): decoders of a neural process on draws from a Gaussian process (paper, section 7 and appendix F).

Networks that differ in their decoder alone learn from the same draws: the functions of appendix F, l ~ U[0.1, 10].
The paper names the layers, the optimiser, its learning rate and its clipping. Chosen here, where it is silent:

- Inputs are uniform in [-2, 2]; a step sees 16 functions, 1 to 50 contexts and, these among them, up to 50 targets:
  Kim et al. (2019), who begin with 3 contexts.
- "Until convergence" is a number of steps; how far the error still fell in their last quarter is reported.
- "The final layer of the MLP decoder" is its output layer, 128 units to mean and deviation. What the layers before
  it see when it is multiplicative can be read in two ways, and the claim is judged for both. `mi-all` keeps the MLP
  decoder but for that layer: the first one sees [x; z, h]. In `mi-x` they see x alone, as in the network that
  appendix D writes out; a prediction is then linear in h, which is linear in an average over contexts.
- `mlp-wide` is not in the paper: an MLP of at least as many parameters as `mi-all`, the larger of the two.
- Held-out functions are the same for all networks. Their error is the negative log-likelihood of a target that is
  not a context under the mixture of the predictions of z drawn from q(z | contexts), averaged over targets; and,
  for the verdict, over 1 to 50 contexts, as likely as in training.
- The floor is the Gaussian process itself, which is told the length scale.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import functional_call, vmap

from impala_mi.experiments.batched import made, seed_of, stacked
from impala_mi.experiments.findings import Cell, Findings, Table
from impala_mi.experiments.gaussian_process import NOISE, draw
from impala_mi.experiments.np_evaluation import (
    CONTEXTS,
    EXAMPLES,
    POINTS,
    WEIGHTS,
    Examples,
    HeldOut,
    best,
    errors,
    held_out,
    interval,
    make_examples,
    oracle,
    predictions,
    sample,
)
from impala_mi.experiments.np_figures import draw_contexts, draw_curves, draw_functions
from impala_mi.experiments.np_model import LATENT, Decoder, NeuralProcess, Terms, parameters
from impala_mi.experiments.study import Study
from impala_mi.machine import keep_freed_memory
from impala_mi.nn.multiplicative import Additive, Multiplicative

DECODERS = {
    "mlp": Decoder(first=True, hidden=False, last=None),
    "mlp-wide": Decoder(first=True, hidden=False, last=None, width=176),
    "skip-mlp": Decoder(first=True, hidden=True, last=Additive),
    "mi-all": Decoder(first=True, hidden=False, last=Multiplicative),
    "mi-x": Decoder(first=False, hidden=False, last=Multiplicative),
}
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
FUNCTIONS = 16
"""Of a step."""
CLIP = 10.0
CHUNK = 25
"""Steps whose functions are drawn at once."""
CONVERGED = 0.01
"""Nats that the error of any decoder may fall in the last quarter."""
CLAIM = (
    "multiplicative forms are better able to condition on latent information than the baseline MLPs, of which one "
    "has skip connections from the latent to each layer (section 7, figure 5(a))."
)


@dataclass(frozen=True)
class Protocol:
    """How much is done."""

    networks: int
    """With each decoder, from seeds of their own."""
    steps: int
    every: int
    """Steps between points of a curve; a multiple of `CHUNK`."""
    learning_rate: float
    draws: int
    """Held-out functions."""
    samples: int
    """Of z for each."""
    curve_draws: int
    curve_samples: int


FULL = Protocol(5, 500_000, 10_000, 1e-4, draws=2000, samples=32, curve_draws=200, curve_samples=8)
QUICK = Protocol(3, 4000, 400, 1e-4, draws=256, samples=16, curve_draws=64, curve_samples=4)


class Stack:
    """Networks with one decoder from several seeds, which learn as one: parameters are [networks, ...]."""

    def __init__(self, decoder: Decoder, seeds: Sequence[int], device: torch.device) -> None:
        networks = [made(seed, lambda: NeuralProcess(decoder)) for seed in seeds]
        self.parameters = stacked(networks, device)
        self.one = networks[0].to(device).requires_grad_(False)

    def terms(self, x: Tensor, y: Tensor, contexts: int, noise: Tensor) -> Terms:
        """As `NeuralProcess`, with a first axis for networks."""

        def of_one(values: dict[str, Tensor], x: Tensor, y: Tensor, noise: Tensor) -> Terms:
            return functional_call(self.one, values, (x, y, contexts, noise))

        return vmap(of_one)(self.parameters, x, y, noise)

    def network(self, number: int) -> NeuralProcess:
        """One of them, until the next is asked for."""
        self.one.load_state_dict({name: p[number] for name, p in self.parameters.items()})
        return self.one

    def errors(self, held: HeldOut) -> Tensor:
        """Of each, [2, networks, contexts, D]."""
        networks = range(len(next(iter(self.parameters.values()))))
        return torch.stack([errors(self.network(number), held) for number in networks], 1)


class Training:
    """A stack that learns from its own stream of functions, which is the same with every decoder."""

    def __init__(self, decoder: Decoder, protocol: Protocol, seed: int, device: torch.device) -> None:
        self.networks = protocol.networks
        # Encoders are made before decoders: those of one seed begin alike with every decoder.
        self.stack = Stack(decoder, [seed_of("network", seed, n) for n in range(self.networks)], device)
        self.learnt = list(self.stack.parameters.values())
        self.optimiser = torch.optim.Adam(self.learnt, protocol.learning_rate, fused=True)
        self.draws = torch.Generator(device).manual_seed(seed_of("draws", seed))
        self.sizes = torch.Generator().manual_seed(seed_of("sizes", seed))

    def learn(self) -> Tensor:
        """`CHUNK` steps; the sums of loss and divergence over them, [2, networks], on the device."""
        x, normal, scale = sample(CHUNK, self.networks, FUNCTIONS, points=POINTS, generator=self.draws)
        y = draw(x, scale, NOISE, normal)
        device = self.draws.device
        noise = torch.randn(CHUNK, self.networks, FUNCTIONS, LATENT, generator=self.draws, device=device)
        contexts = torch.randint(1, POINTS + 1, (CHUNK,), generator=self.sizes)
        targets = contexts + (torch.rand(CHUNK, generator=self.sizes) * (POINTS + 1 - contexts)).long()
        total = torch.zeros(2, self.networks, device=device)
        for step, (c, t) in enumerate(zip(contexts.tolist(), targets.tolist(), strict=True)):
            terms = self.stack.terms(x[step, ..., :t], y[step, ..., :t], c, noise[step])
            loss = terms.loss.mean(-1)
            self.optimiser.zero_grad()
            loss.sum().backward()  # a network's gradient is that of its own loss
            torch.nn.utils.clip_grad_value_(self.learnt, CLIP)
            self.optimiser.step()
            total += torch.stack([loss, terms.divergence.mean(-1)]).detach()
        return total

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "parameters": [p.detach() for p in self.learnt], "optimiser": self.optimiser.state_dict(),
            "draws": self.draws.get_state(), "sizes": self.sizes.get_state(),
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for parameter, value in zip(self.learnt, state["parameters"], strict=True):
            parameter.data.copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        self.draws.set_state(state["draws"])
        self.sizes.set_state(state["sizes"])


def run(study: Study) -> Findings:
    """Train networks with each decoder, or what is left of it, and compare them on held-out functions."""
    protocol = QUICK if study.quick else FULL
    study.begin(**asdict(protocol))
    keep_freed_memory()
    held = held_out(protocol.draws, protocol.samples, seed_of("held out", study.seed), study.device)
    examples = make_examples(seed_of("examples", study.seed), study.device)
    found = {}
    for number, name in enumerate(DECODERS):

        def told(share: float, number: int = number, name: str = name) -> None:
            study.progress((number + share) / len(DECODERS), name)

        def part(name: str = name, told: Callable[[float], None] = told) -> dict[str, Any]:
            return train(study, name, protocol, held, examples, told)

        found[name] = study.part(name, part)
    return findings(protocol, found, means(oracle(held)[:, None]), examples)


def train(
    study: Study, name: str, protocol: Protocol, held: HeldOut, examples: Examples, told: Callable[[float], None]
) -> dict[str, Any]:
    """Networks with one decoder: curves while they learn, then their errors and what they predict."""
    training = Training(DECODERS[name], protocol, study.seed, study.device)
    first, curve = 0, []
    total = torch.zeros(2, protocol.networks, device=study.device)
    if (state := study.saved(name)) is not None:
        training.load(state)
        first, curve = state["step"], state["curve"]
        total.copy_(state["total"])
    few = held.some(protocol.curve_draws, protocol.curve_samples)
    for step in range(first + CHUNK, protocol.steps + 1, CHUNK):
        total += training.learn()
        if step % protocol.every == 0:
            loss, divergence = (total / protocol.every).tolist()
            nll = WEIGHTS @ means(training.stack.errors(few))["nll"]["networks"]
            curve.append({"step": step, "loss": loss, "divergence": divergence, "nll": nll.tolist()})
            total.zero_()
        told(step / protocol.steps)
        progress = {"step": step, "curve": curve, "total": total}
        study.save(name, lambda p=progress: training.state() | p)  # type: ignore[misc]
    return {
        "parameters": parameters(training.stack.one), "curve": curve, **means(training.stack.errors(held)),
        "examples": predictions(training.stack.network(0), examples),
    }  # fmt: skip


def means(found: Tensor) -> dict[str, Any]:
    """Errors [2, networks, contexts, D] by name: means of each network and of each function, by contexts."""
    return {
        name: {"networks": one.mean(-1).T.tolist(), "functions": one.mean(0).tolist()}
        for name, one in zip(("nll", "squared"), found, strict=True)
    }


def overall(one: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> tuple[float, float]:
    """Mean over numbers of contexts with half of its interval, of one decoder or of its difference from another.

    Networks of one seed and functions are compared in pairs: they began, learnt and were judged alike.
    """
    networks, functions = (WEIGHTS @ one[key] for key in ("networks", "functions"))
    if other is not None:
        networks, functions = networks - WEIGHTS @ other["networks"], functions - WEIGHTS @ other["functions"]
    return interval(networks, functions)


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


def shown(found: tuple[float, float]) -> str:
    """A mean and half of its interval, in the digits that the latter leaves."""
    value, half = found
    digits = max(0, 1 - int(np.floor(np.log10(half)))) if half > 0 else 3
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def by_contexts(one: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Means with half of their intervals for each number of contexts."""
    pairs = zip(one["networks"], one["functions"], strict=True)
    return [interval(np.array(networks), np.array(functions)) for networks, functions in pairs]


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
