"""The sweep over widths, models and sizes."""

from dataclasses import asdict, dataclass
from itertools import product

from impala_mi.reproductions.expressivity.expressivity_report import report_from_data
from impala_mi.reproductions.expressivity.min_params import (
    ERROR,
    MinParams,
    TrainedNetwork,
    as_row,
    min_params,
    smallest_networks,
)
from impala_mi.reproductions.expressivity.shallow_networks import FUNCTIONS, MODELS, VARIANCE, outputs
from impala_mi.reproductions.expressivity.size_sweep import SizeSweep, train_sweep
from impala_mi.reproductions.network_stack import prepare_process
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import StudyReport, as_stored

BEYOND = ((300, 500), (1000,), (2000,))
"""Hidden sizes of MLPs after the paper's."""
MAX_WEIGHTS = 200_000
"""Largest number of weights in an MLP's first layer for sizes of `BEYOND`."""


@dataclass(frozen=True)
class ExpressivityProtocol:
    """Networks to train and for how long."""

    widths: tuple[int, ...]
    """Widths d of x and of z."""
    sizes: tuple[tuple[int, ...], ...]
    """Groups of hidden sizes, trained one after another."""
    beyond: tuple[tuple[int, ...], ...]
    """Groups that follow for MLPs."""
    steps: int
    repetitions: int

    def groups(self, model: str, width: int) -> tuple[tuple[int, ...], ...]:
        """Groups of sizes for a model; the diagonal form has only its width."""
        if model == "diagonal":
            return ((width,),)
        if model == "MLP":
            return self.sizes + tuple(g for g in self.beyond if (2 * width + 1) * g[-1] <= MAX_WEIGHTS)
        return self.sizes


PAPER = ExpressivityProtocol(
    widths=(1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40),
    sizes=((1, 2, 5), (10, 15, 20), (30, 40), (50, 60), (80, 100, 120), (140, 160, 180, 200)),
    beyond=BEYOND,
    steps=6000,
    repetitions=3,
)
QUICK = ExpressivityProtocol(
    widths=(1, 2, 3, 5, 8, 12),
    sizes=((1, 2, 5), (10, 20, 40), (80, 200)),
    beyond=((500,),),
    steps=3000,
    repetitions=3,
)


def run_study(study: Study) -> StudyReport:
    """Train every network of the protocol, and compare the parameters that the models need."""
    protocol = QUICK if study.quick else PAPER
    study.begin(**asdict(protocol))
    prepare_process()
    kinds = list(product(protocol.widths, MODELS))
    total, before = sum(width for width, _ in kinds), 0
    points: list[MinParams] = []
    for width, model in kinds:
        trained = sweep_width(study, protocol, model, width, (before / total, (before + width) / total))
        points += [min_params(trained, model, f, width, outputs(f, width), protocol.repetitions) for f in FUNCTIONS]
        before += width
    return report_from_data(as_stored({"protocol": asdict(protocol), "points": [as_row(p) for p in points]}))


def sweep_width(
    study: Study, protocol: ExpressivityProtocol, model: str, width: int, share: tuple[float, float]
) -> list[TrainedNetwork]:
    """Train one model at one width, with increasing sizes until every function is learnt.

    Args:
        study: study to which the parts belong.
        protocol: what to train.
        model: one of `MODELS`.
        width: width of x and of z.
        share: shares of the study that are done before and after.
    """
    trained: list[TrainedNetwork] = []
    groups = protocol.groups(model, width)
    length = (share[1] - share[0]) / len(groups)
    for number, sizes in enumerate(groups):
        unlearnt = [f for f in FUNCTIONS if None in smallest_networks(trained, f, protocol.repetitions)]
        if not unlearnt:
            break
        functions = tuple(f for f in unlearnt if model == "low rank" or within_reach(f, width, sizes[-1]))
        if functions:
            sweep = SizeSweep(model, width, functions, sizes, protocol.steps, protocol.repetitions)
            trained += sweep_part(study, sweep, share[0] + number * length, length)
    return trained


def within_reach(function: str, width: int, rank: int) -> bool:
    """Whether outputs of that rank can be within the error by its sum or by its mean over outputs."""
    count = outputs(function, width)
    return rank >= count or (count - rank) / count * VARIANCE[function] <= ERROR


def sweep_part(study: Study, sweep: SizeSweep, before: float, share: float) -> list[TrainedNetwork]:
    """Results of one part of the study; `before` and `share` are shares of the study's progress."""

    def progress(share_of_part: float) -> None:
        study.progress(before + share_of_part * share, f"{sweep.model}, width {sweep.width}")

    progress(0.0)
    part = study.part(sweep.name, lambda: {"trained": [as_row(t) for t in train_sweep(study, sweep, progress)]})
    return [TrainedNetwork.from_row(row) for row in part["trained"]]
