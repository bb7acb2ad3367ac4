"""How many parameters functions of two inputs need (paper, section 3, figure 2 and appendix C).

For x and z in R^d the networks are MLP: linear(size), relu, linear(out) of [x; z], and MI: MI(size), linear(out).
They learn summation, gating and the dot product; the number of parameters of the smallest network within a mean
squared error of 0.1 is drawn over d. Where the paper is silent or unclear:

- *One output or d.* The paper calls the growth of MI for gating quadratic. A unit has d^2 weights and d gates need
  d units, so that is of one output: gating is sigmoid(x) . z, beside x . z, and summation is of all entries of x
  and z. The functions with d outputs, x + z and sigmoid(x) * z, are measured as well and kept apart. Their error is
  the squared norm, because by the mean over outputs z / 2 alone is within 0.1 of all gates (0.043 at any width).
  That reading is in the tables too; Adam's steps do not depend on it.
- *The sweep* [1, 2, 5, ..., 200]: "size is the largest value such that the network has not more than N variables
  and we sweep over" it. It is read as hidden sizes; a network of a size stands for all N that allow this size and
  no larger one. Networks of at most 200 variables would end at small d, so N itself is hardly meant, but thousands
  of variables may be: for MLPs the sweep goes on (`BEYOND`) while their first layer has at most 200,000.
- *Input widths* are not given: `Protocol.widths`.
- *Pruned* are weights below 0.001 of the network that was found; it is evaluated again without them.
- *Repetitions* are not mentioned; here they differ in initial weights, which are PyTorch's for linear layers and
  `impala_mi.nn.multiplicative`'s for the others. Adam's other settings are PyTorch's.

Beyond the paper: the low-rank form, LowRank(d, d, out) whose rank is the size, and the diagonal form,
Diagonal(d, d), linear(out), which has no size.

Networks of one model and width train in one stack, on the same samples. Sizes are tried from below, some at a time,
and a function leaves once all of its repetitions are within the error: larger networks cannot be the smallest. A
function of d outputs enters with the sizes that reach d: an output of rank s < d leaves d - s of its principal
components out, each of variance 2 (summation) or 0.29 (gating).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import torch
from torch import Tensor, nn

from impala_mi.experiments.batched import Networks, made, prepare, pruned, seed_of
from impala_mi.experiments.findings import Cell, Findings, Table
from impala_mi.experiments.parameters_needed import (
    ERROR,
    FROM_WIDTH,
    Curves,
    Point,
    Trained,
    claims,
    curves,
    draw,
    median,
    needed,
    point,
    verdict,
)
from impala_mi.experiments.study import Study
from impala_mi.nn.multiplicative import Additive, Diagonal, LowRank, Multiplicative

RATES = (0.1, 0.001, 0.0001)
BATCH = 100
SAMPLES = 10_000
"""That the error is measured on."""
PRUNED_BELOW = 0.001
BEYOND = ((300, 500), (1000,), (2000,))
"""Hidden sizes of MLPs after those of the paper."""
MOST_WEIGHTS = 200_000
"""Of an MLP's first layer, for sizes of `BEYOND`."""
_STEPS_AT_A_TIME = 50

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "summation": lambda x, z: (x + z).sum(-1, keepdim=True),
    "gating": lambda x, z: (x.sigmoid() * z).sum(-1, keepdim=True),
    "dot product": lambda x, z: (x * z).sum(-1, keepdim=True),
    "summation, d outputs": lambda x, z: x + z,
    "gating, d outputs": lambda x, z: x.sigmoid() * z,
}
"""Of x and z [..., d], to [..., 1] or [..., d]."""
TITLES = {
    "summation": "summation: Σ (x + z)",
    "gating": "gating: σ(x) · z",
    "dot product": "dot product: x · z",
    "summation, d outputs": "summation, d outputs: x + z",
    "gating, d outputs": "gating, d outputs: σ(x) ⊙ z",
}


class Network(nn.Module):
    """A layer of x and z, its activation, and a linear readout."""

    def __init__(self, layer: nn.Module, activation: Callable[[Tensor], Tensor], readout: nn.Module) -> None:
        super().__init__()
        self.layer, self.activation, self.readout = layer, activation, readout

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """[..., out] of x and z [..., d]."""
        return self.readout(self.activation(self.layer(x, z)))


def _same(x: Tensor) -> Tensor:
    return x


MODELS: dict[str, Callable[[int, int, int], Network]] = {
    "MLP": lambda d, out, size: Network(Additive(d, d, size), torch.relu, nn.Linear(size, out)),
    "MI": lambda d, out, size: Network(Multiplicative(d, d, size), _same, nn.Linear(size, out)),
    "low rank": lambda d, out, size: Network(LowRank(d, d, out, size), _same, nn.Identity()),
    "diagonal": lambda d, out, size: Network(Diagonal(d, d), _same, nn.Linear(d, out)),
}
"""Of a width d, a number of outputs and a size."""


@dataclass(frozen=True)
class Protocol:
    """How much is trained."""

    widths: tuple[int, ...]
    """d, of x and of z."""
    sizes: tuple[tuple[int, ...], ...]
    """Groups of hidden sizes, trained one after another."""
    beyond: tuple[tuple[int, ...], ...]
    """Groups that follow for MLPs."""
    steps: int
    repetitions: int

    def groups(self, model: str, width: int) -> tuple[tuple[int, ...], ...]:
        """Groups of sizes for a model; the diagonal form has but one, which is its width."""
        if model == "diagonal":
            return ((width,),)
        if model == "MLP":
            return self.sizes + tuple(some for some in self.beyond if (2 * width + 1) * some[-1] <= MOST_WEIGHTS)
        return self.sizes


PAPER = Protocol(
    widths=(1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40),
    sizes=((1, 2, 5), (10, 15, 20), (30, 40), (50, 60), (80, 100, 120), (140, 160, 180, 200)),
    beyond=BEYOND,
    steps=6000,
    repetitions=3,
)
QUICK = Protocol(
    widths=(1, 2, 3, 5, 8, 12),
    sizes=((1, 2, 5), (10, 20, 40), (80, 200)),
    beyond=((500,),),
    steps=3000,
    repetitions=2,
)


def outputs(function: str, width: int) -> int:
    """Of a function of two vectors of that width."""
    return FUNCTIONS[function](torch.zeros(width), torch.zeros(width)).numel()


def targets(functions: Sequence[str], x: Tensor, z: Tensor) -> Tensor:
    """[F, ..., most outputs] of x and z [..., d]; padded with zeros, as the networks are."""
    values = [FUNCTIONS[function](x, z) for function in functions]
    most = max(value.shape[-1] for value in values)
    return torch.stack([nn.functional.pad(value, (0, most - value.shape[-1])) for value in values])


@dataclass(frozen=True)
class Sweep:
    """Networks that train in one stack."""

    model: str
    width: int
    functions: tuple[str, ...]
    sizes: tuple[int, ...]
    steps: int
    repetitions: int

    @property
    def name(self) -> str:
        """Of a part of the study."""
        return f"width{self.width}-{self.model.replace(' ', '-')}-sizes{self.sizes[0]}-{self.sizes[-1]}"


def train(study: Study, sweep: Sweep, done: Callable[[float], None]) -> list[Trained]:
    """Train and measure all networks of a sweep: every learning rate, function, size and repetition.

    Args:
        study: whose part of the sweep's name is gone on with.
        sweep: what to train.
        done: told the share of the steps that are done.
    """
    kinds = list(product(RATES, sweep.functions, sweep.sizes, range(sweep.repetitions)))
    singles = [_initial(study.seed, sweep, function, size, repetition) for _, function, size, repetition in kinds]
    networks = Networks(singles, [rate for rate, *_ in kinds], shared=True, device=study.device)
    generator = torch.Generator(study.device).manual_seed(seed_of(study.seed, "samples", sweep.width))
    at = 0
    if (before := study.saved(sweep.name)) is not None:
        at = before["step"]
        networks.restore(before["networks"])
        generator.set_state(before["generator"])
    by_function = (len(RATES), len(sweep.functions), -1)
    while at < sweep.steps:
        x, z = _samples(min(_STEPS_AT_A_TIME, sweep.steps - at), sweep.width, generator)
        y = targets(sweep.functions, x, z)  # [F, steps, B, out]
        for t in range(len(x)):
            wrong = networks(x[t], z[t]).unflatten(0, by_function) - y[:, t].unsqueeze(1)
            networks.step(wrong.square().sum(-1).mean(-1).flatten())
        at += len(x)
        state = {"step": at, "generator": generator.get_state()}
        study.save(sweep.name, lambda: state | {"networks": networks.state()})  # noqa: B023
        done(at / sweep.steps)
    rest, left = pruned(networks.parameters, PRUNED_BELOW)
    measured = [_errors(study, sweep, networks, parameters) for parameters in (networks.parameters, rest)]
    return [
        Trained(function, size, rate, repetition, sum(p.numel() for p in single.parameters()), error, kept, after)
        for (rate, function, size, repetition), single, kept, error, after in zip(
            kinds, singles, left.tolist(), *measured, strict=True
        )
    ]


def _initial(seed: int, sweep: Sweep, function: str, size: int, repetition: int) -> Network:
    """The same for every learning rate."""
    d = sweep.width
    return made(
        seed_of(seed, sweep.model, d, function, size, repetition),
        lambda: MODELS[sweep.model](d, outputs(function, d), size),
    )


def _samples(steps: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x and z of some mini-batches, [steps, B, d] each."""
    both = torch.randn(2, steps, BATCH, width, generator=generator, device=generator.device)
    return both[0], both[1]


@torch.no_grad()
def _errors(study: Study, sweep: Sweep, networks: Networks, parameters: dict[str, Tensor]) -> list[float | None]:
    """[N] errors on samples that no network has seen, the same for all of a width."""
    generator = torch.Generator(study.device).manual_seed(seed_of(study.seed, "test", sweep.width))
    x, z = _samples(SAMPLES // BATCH, sweep.width, generator)
    y = targets(sweep.functions, x, z)
    total = torch.zeros(len(RATES), len(sweep.functions), 1, device=study.device)
    for t in range(len(x)):
        found = networks(x[t], z[t], parameters=parameters)
        wrong = found.unflatten(0, (*total.shape[:2], -1)) - y[:, t].unsqueeze(1)
        total = total + wrong.square().sum(-1).mean(-1)
    return [e if math.isfinite(e) else None for e in (total / len(x)).flatten().tolist()]


def sweep_width(
    study: Study, protocol: Protocol, model: str, width: int, share: tuple[float, float]
) -> list[Trained]:
    """All that is trained of one model and width; sizes from below until every function is represented.

    Args:
        study: whose parts these are.
        protocol: how much is trained.
        model: of `MODELS`.
        width: of x and of z.
        share: of the whole study, where this begins and ends.
    """
    found: list[Trained] = []
    groups = protocol.groups(model, width)
    length = (share[1] - share[0]) / len(groups)
    for number, sizes in enumerate(groups):
        left = [f for f in FUNCTIONS if None in needed(found, f, protocol.repetitions)]
        if not left:
            break
        functions = tuple(f for f in left if model == "low rank" or outputs(f, width) <= sizes[-1])
        if functions:
            sweep = Sweep(model, width, functions, sizes, protocol.steps, protocol.repetitions)
            found += _done_or_trained(study, sweep, share[0] + number * length, length)
    return found


def _done_or_trained(study: Study, sweep: Sweep, before: float, share: float) -> list[Trained]:
    """A part of the study, with its share and that of what came before."""

    def done(of_part: float) -> None:
        study.progress(before + of_part * share, f"{sweep.model}, width {sweep.width}")

    done(0.0)
    part = study.part(sweep.name, lambda: {"trained": [asdict(t) for t in train(study, sweep, done)]})
    return [Trained(**row) for row in part["trained"]]


def run(study: Study) -> Findings:
    """Train every network of the protocol, and compare what they need."""
    protocol = QUICK if study.quick else PAPER
    study.begin(**asdict(protocol))
    prepare()
    kinds = list(product(protocol.widths, MODELS))
    whole, before = sum(width for width, _ in kinds), 0
    points = []
    for width, model in kinds:
        found = sweep_width(study, protocol, model, width, (before / whole, (before + width) / whole))
        points += [point(found, model, f, width, outputs(f, width), protocol.repetitions) for f in FUNCTIONS]
        before += width
    return findings(points, protocol)


def findings(points: Sequence[Point], protocol: Protocol) -> Findings:
    """Tables, figures and verdict."""
    by = curves(points)
    one, several = claims(by, ""), claims(by, ", d outputs")
    rows: list[list[Cell]] = [[c.text, "yes" if c.held else "no", c.numbers] for c in one + several]
    functions = list(FUNCTIONS)
    return Findings(
        claim="MLPs need exponentially many parameters for gating and dot products, multiplicative networks "
        "quadratically many; summation is easier for MLPs; multiplicative networks for summation and dot products "
        "can be pruned, MLPs cannot.",
        verdict=verdict(one, several),
        tables=[
            Table(
                f"Statements of the paper, at widths from {FROM_WIDTH} on", ["statement", "held", "numbers"], rows
            ),
            *(_table(by, function) for function in FUNCTIONS),
        ],
        figures={
            "figure2": draw(by, functions[:3], ["MLP", "MI"], TITLES),
            "outputs": draw(by, functions[3:], ["MLP", "MI"], TITLES),
            "relatives": draw(by, functions, list(MODELS), TITLES),
        },
        data={"protocol": asdict(protocol), "points": [asdict(p) for p in points]},
    )


def _table(by: Curves, function: str) -> Table:
    """A row a width; of several repetitions the median."""
    vector = outputs(function, 2) > 1
    rows: list[list[Cell]] = []
    for some in zip(*(by[model, function] for model in MODELS), strict=True):
        row: list[Cell] = [some[0].width]
        for p in some:
            row += [_count(p.needs, p.tried), _count(median(p.left), None) + ("" if p.holds_pruned else " (x)")]
        row += [_count(median(p.parameters_mean), p.tried) for p in some if vector and p.model in ("MLP", "MI")]
        rows.append(row)
    header = ["d", *(f"{model}{what}" for model in MODELS for what in ("", ", pruned"))]
    title = f"{TITLES[function]}: parameters for an error of {ERROR}; (x): not within it once pruned"
    if vector:
        header += ["MLP, mean", "MI, mean"]
        title += "; mean: where the error is the mean over outputs"
    return Table(title, header, rows)


def _count(value: float, tried: int | None) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else f"> {tried:,}" if tried else "-"
