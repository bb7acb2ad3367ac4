"""The sweep over widths, models and sizes, and its tables."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

from impala_mi.reproductions.batched import prepare
from impala_mi.reproductions.expressivity.claims import FROM_WIDTH, claims, verdict
from impala_mi.reproductions.expressivity.figures import draw
from impala_mi.reproductions.expressivity.needs import ERROR, Curves, Point, Trained, curves, median, needed, point
from impala_mi.reproductions.expressivity.networks import FUNCTIONS, MODELS, TITLES, VARIANCE, outputs
from impala_mi.reproductions.expressivity.training import Sweep, train
from impala_mi.reproductions.findings import Cell, Findings, Table
from impala_mi.reproductions.study import Study

BEYOND = ((300, 500), (1000,), (2000,))
"""Hidden sizes of MLPs after those of the paper."""
MOST_WEIGHTS = 200_000
"""Of an MLP's first layer, for sizes of `BEYOND`."""


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
    repetitions=3,
)


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
        functions = tuple(f for f in left if model == "low rank" or within_reach(f, width, sizes[-1]))
        if functions:
            sweep = Sweep(model, width, functions, sizes, protocol.steps, protocol.repetitions)
            found += _done_or_trained(study, sweep, share[0] + number * length, length)
    return found


def within_reach(function: str, width: int, rank: int) -> bool:
    """Whether outputs of that rank can be within the error, by its mean over outputs if not by its sum."""
    count = outputs(function, width)
    return rank >= count or (count - rank) / count * VARIANCE[function] <= ERROR


def _done_or_trained(study: Study, sweep: Sweep, before: float, share: float) -> list[Trained]:
    """A part of the study, with its share and that of what came before."""

    def done(of_part: float) -> None:
        study.progress(before + of_part * share, f"{sweep.model}, width {sweep.width}")

    done(0.0)
    part = study.part(sweep.name, lambda: {"trained": [asdict(t) for t in train(study, sweep, done)]})
    return [Trained(**row) for row in part["trained"]]


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
