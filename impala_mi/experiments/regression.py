"""Affine functions and sines as many tasks of one network (paper, section 6, figure 3 and appendix D).

Half of T tasks are a x + b and half a sin(10 x) + b, with a and b from U[0, 1]. Three models learn them all at once
with Adam (3e-3), 50 samples of each task a step. Where the paper is silent:

- x is from U[-1, 1]: sin(10 x) then has three periods, which layers of 20 and 30 units can follow. Of a standard
  Gaussian it would be some ten, of U[0, 1] one and a half.
- The logarithm is of base 10 and taken of the training error's mean over 1/100 of the steps, for each repetition;
  curves are means over repetitions and their standard errors.
- Initial weights are PyTorch's for linear layers and `impala_mi.nn.multiplicative`'s for the other; the paper's
  framework had its own.

A repetition draws its tasks and samples anew; its models see the same ones and are compared in pairs. A task's
context is one-hot: a linear layer of it is a column of the weights, computed once a task and not once a sample, and
so are the weights that it generates. Features come first, [width, T * B], which suits matrix products of such small
layers best. Several repetitions train in one stack.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

from impala_mi.experiments.batched import Networks, made, prepare, seed_of
from impala_mi.experiments.findings import Cell, Findings, Table
from impala_mi.experiments.study import Study
from impala_mi.nn.multiplicative import Multiplicative

BATCH = 50
"""Samples of each task in a step."""
RATE = 3e-3
POINTS = 100
"""Of a learning curve."""
ROWS = 600
"""Tasks of all repetitions in one stack: few enough that activations (4 MB) stay in a processor's cache."""


class ConditionalMLP(nn.Module):
    """concat(x, linear(20)(z)), linear(30), relu, linear(20), relu, linear(1), for one-hot z."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.context = nn.Linear(tasks, 20)
        self.first, self.second, self.last = nn.Linear(21, 30), nn.Linear(30, 20), nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[T, B] of samples x [T, B] of every task."""
        of_x, of_context = self.first.weight[:, :1], self.first.weight[:, 1:]
        shift = of_context @ contexts(self.context).T + self.first.bias.unsqueeze(-1)  # [30, T]
        h = torch.relu_((of_x @ x.reshape(1, -1)).unflatten(1, x.shape) + shift.unsqueeze(-1))
        h = torch.relu_(self.second.weight @ h.flatten(1) + self.second.bias.unsqueeze(-1))
        return (self.last.weight @ h).view(x.shape) + self.last.bias


class ConditionalMI(nn.Module):
    """MI([linear(30), relu, linear(20), relu](x), linear(20)(z)), for one-hot z."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.context = nn.Linear(tasks, 20)
        self.first, self.second = nn.Linear(1, 30), nn.Linear(30, 20)
        self.output = Multiplicative(20, 20, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[T, B] of samples x [T, B] of every task."""
        h = trunk(x, self.first, self.second)
        weight, bias = self.output.generate(contexts(self.context))  # [T, 1, 20], [T, 1]
        return per_task(h, weight.squeeze(1), bias)


class Multiheaded(nn.Module):
    """linear(20), relu, linear(30), relu, linear(1), the last one of each task its own."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 20), nn.Linear(20, 30)
        self.heads = nn.Linear(30, tasks)

    def forward(self, x: Tensor) -> Tensor:
        """[T, B] of samples x [T, B] of every task."""
        return per_task(trunk(x, self.first, self.second), self.heads.weight, self.heads.bias.unsqueeze(-1))


def contexts(layer: nn.Linear) -> Tensor:
    """[T, width] a layer's outputs for each one-hot input of T."""
    return layer.weight.T + layer.bias


def trunk(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """[width, T, B] hidden units, features first, of two layers with rectifiers of x [T, B]."""
    both = torch.cat([first.weight, first.bias.unsqueeze(-1)], 1)
    h = torch.relu_(both @ torch.stack([x.reshape(-1), torch.ones_like(x).reshape(-1)]))
    return torch.relu_(second.weight @ h + second.bias.unsqueeze(-1)).unflatten(1, x.shape)


def per_task(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[T, B] one output of hidden units [width, T, B] by each task's weights [T, width] and bias [T, 1]."""
    return (h * weight.T.unsqueeze(-1)).sum(0) + bias


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "conditional MLP": ConditionalMLP,
    "multiheaded MLP": Multiheaded,
    "conditional MI": ConditionalMI,
}
"""Of a number of tasks; the multiplicative one is last."""
OURS = "conditional MI"
OTHERS = tuple(model for model in MODELS if model != OURS)
COLOURS = {"conditional MLP": "tab:blue", "multiheaded MLP": "tab:orange", OURS: "tab:green"}


@dataclass(frozen=True)
class Protocol:
    """How much is trained."""

    tasks: tuple[int, ...]
    """Even."""
    steps: int
    """A multiple of `POINTS`."""
    repetitions: int


PAPER = Protocol(tasks=(20, 40, 60), steps=10_000, repetitions=60)
QUICK = Protocol(tasks=(20, 40, 60), steps=6_000, repetitions=10)


def values(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """[..., T, B] a x + b of the first half of the tasks and a sin(10 x) + b of the others; a and b [..., T, 1]."""
    affine, sine = x.chunk(2, -2)
    return torch.cat([affine, torch.sin(10 * sine)], -2) * a + b


def train(
    study: Study, name: str, tasks: int, repetitions: range, steps: int, done: Callable[[float], None]
) -> np.ndarray:
    """Learning curves [models, P, R, 2] of some repetitions: mean training error of affine functions and of sines.

    Args:
        study: whose state named `name` is gone on with.
        name: of the part.
        tasks: T.
        repetitions: which.
        steps: to train for, P points.
        done: told the share that is done.
    """
    device = study.device
    initial = {
        model: [made(seed_of(study.seed, model, tasks, r), lambda: make(tasks)) for r in repetitions]  # noqa: B023
        for model, make in MODELS.items()
    }
    networks = [Networks(some, [RATE] * len(some), shared=False, device=device) for some in initial.values()]
    generator = torch.Generator(device).manual_seed(seed_of(study.seed, tasks, repetitions.start))
    a, b = torch.rand(2, len(repetitions), tasks, 1, generator=generator, device=device)
    curve = torch.zeros(len(networks), POINTS, len(repetitions), 2, device=device)
    at = 0
    if (before := study.saved(name)) is not None:
        at = before["point"]
        curve.copy_(before["curve"])
        generator.set_state(before["generator"])
        for some, state in zip(networks, before["networks"], strict=True):
            some.restore(state)
    length = steps // POINTS
    while at < POINTS:
        for _ in range(length):
            x = torch.rand(len(repetitions), tasks, BATCH, generator=generator, device=device) * 2 - 1
            y = values(x, a, b)
            for number, some in enumerate(networks):
                error = (some(x) - y).square().mean(-1)  # [R, T]
                some.step(error.mean(1))
                curve[number, at] += error.detach().unflatten(1, (2, -1)).mean(-1)
        curve[:, at] /= length
        at += 1
        state = {"point": at, "generator": generator.get_state()}
        study.save(name, lambda: state | {"curve": curve, "networks": [some.state() for some in networks]})  # noqa: B023
        done(at / POINTS)
    return curve.double().cpu().numpy()


@dataclass(frozen=True)
class Mean:
    """Over repetitions."""

    mean: float
    error: float
    """Standard error."""
    count: int

    @property
    def sure(self) -> bool:
        """Whether it is above 0 by a two-sided interval of 95 % (Student's t)."""
        return self.mean - float(stats.t.ppf(0.975, self.count - 1)) * self.error > 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def mean_of(some: np.ndarray) -> Mean:
    """Mean and standard error of [R] numbers."""
    return Mean(float(some.mean()), float(stats.sem(some)), len(some))


@dataclass(frozen=True)
class Lead:
    """Decades by which our model's error of all tasks is below another's, in pairs of repetitions."""

    end: Mean
    """At the last point of the curves."""
    throughout: Mean
    """Mean over all points: who learns sooner."""


def run(study: Study) -> Findings:
    """Train every repetition, and compare the models."""
    protocol = QUICK if study.quick else PAPER
    study.begin(**asdict(protocol))
    prepare()
    whole, before = sum(protocol.tasks) * protocol.repetitions, 0
    curves: dict[int, np.ndarray] = {}
    for tasks in protocol.tasks:
        stacks = []
        for start in range(0, protocol.repetitions, ROWS // tasks):
            some = range(start, min(start + ROWS // tasks, protocol.repetitions))
            rows = tasks * len(some)
            stacks.append(_done_or_trained(study, tasks, some, protocol.steps, before / whole, rows / whole))
            before += rows
        curves[tasks] = np.concatenate(stacks, axis=2)
    return findings(curves, protocol)


def _done_or_trained(
    study: Study, tasks: int, repetitions: range, steps: int, before: float, share: float
) -> np.ndarray:
    """A part of the study, with its share and that of what came before; curves as of `train`."""
    name = f"tasks{tasks}-repetitions{repetitions.start}-{repetitions[-1]}"

    def done(of_part: float) -> None:
        study.progress(before + of_part * share, f"{tasks} tasks, repetition {repetitions[-1] + 1}")

    done(0.0)
    part = study.part(name, lambda: {"curve": train(study, name, tasks, repetitions, steps, done).tolist()})
    return np.array(part["curve"])


def logs(curve: np.ndarray) -> np.ndarray:
    """log10 of training errors [models, P, R, 2]: [models, P, R, 3] of all tasks, affine ones and sines."""
    return np.log10(np.concatenate([curve.mean(-1, keepdims=True), curve], -1))


def findings(curves: Mapping[int, np.ndarray], protocol: Protocol) -> Findings:
    """Table, figures and verdict of the curves [models, P, R, 2] by number of tasks."""
    by = {tasks: logs(curve) for tasks, curve in curves.items()}
    rows: list[list[Cell]] = []
    for tasks, log in by.items():
        for number, (model, make) in enumerate(MODELS.items()):
            shown = [str(mean_of(some)) for some in (*log[number, -1].T, log[number, :, :, 0].mean(0))]
            size = sum(p.numel() for p in make(tasks).parameters())
            rows.append([f"{tasks} tasks, {model}", size, *shown, _overtaken(log, number, protocol.steps)])
    leads = {
        tasks: {model: lead(log[number, ..., 0], log[-1, ..., 0]) for number, model in enumerate(OTHERS)}
        for tasks, log in by.items()
    }
    how = (
        f"log10 of the training error (mean squared) over the last 1/{POINTS} of {protocol.steps:,} steps: mean ± "
        f"standard error of {protocol.repetitions} repetitions; throughout: mean over the whole curve of all "
        f"tasks; overtaken: the step by which the mean curve of the {OURS} is where this model ends"
    )
    ahead = [
        [f"{tasks} tasks, {when}", *(str(getattr(some[other], when)) for other in OTHERS)]
        for when in ("end", "throughout") for tasks, some in leads.items()
    ]  # fmt: skip
    return Findings(
        claim="a task-conditioned multiplicative layer learns both kinds of tasks better and sooner than a "
        "conditional and a multiheaded MLP, the more so the more tasks there are.",
        verdict=verdict(leads),
        tables=[
            Table(how, ["", "parameters", "all tasks", "affine", "sines", "throughout", "overtaken"], rows),
            Table(f"Decades by which the {OURS} is ahead, pair by pair of all tasks' errors", ["", *OTHERS], ahead),
        ],
        figures={"figure3": draw(by, [0], protocol.steps), "kinds": draw(by, [1, 2], protocol.steps)},
        data={"protocol": asdict(protocol), "x": "U[-1, 1]", "log": "base 10", "curves": _data(by)},
    )


def lead(other: np.ndarray, ours: np.ndarray) -> Lead:
    """Of curves [P, R]."""
    return Lead(mean_of(other[-1] - ours[-1]), mean_of((other - ours).mean(0)))


def _overtaken(log: np.ndarray, model: int, steps: int) -> int | None:
    """The step by which our mean curve is where a model ends; None where it never is."""
    ours = log[-1, :, :, 0].mean(-1)
    below = np.flatnonzero(ours <= log[model, -1, :, 0].mean())
    return int((below[0] + 1) * steps // POINTS) if len(below) else None


def verdict(leads: Mapping[int, Mapping[str, Lead]]) -> str:
    """Held: ahead of both others at the end and throughout for every number of tasks, at the end by more of more.

    Each of these is sure where an interval of 95 % is above 0; the last compares the most and the fewest tasks.

    Args:
        leads: over each other model, by number of tasks.
    """
    said, held = [], []
    for other in OTHERS:
        some = {tasks: by[other] for tasks, by in leads.items()}
        end, sooner = [x.end.sure for x in some.values()], [x.throughout.sure for x in some.values()]
        few, many = some[min(some)].end, some[max(some)].end
        more = Mean(many.mean - few.mean, float(np.hypot(many.error, few.error)), few.count)
        held += [*end, *sooner, more.sure]
        said.append(
            f"over the {other} its lead in decades is "
            + ", ".join(
                f"{x.end} at the end and {x.throughout} throughout ({tasks} tasks)" for tasks, x in some.items()
            )
            + f", sure at {sum(end)} and {sum(sooner)} of {len(some)} numbers of tasks, and grows from {min(some)} "
            f"to {max(some)} tasks by {more} ({'sure' if more.sure else 'not sure'})"
        )
    how = "held" if all(held) else "held in part" if any(held) else "did not hold"
    return (
        f"{how}, {sum(held)} of {len(held)} statements on the {OURS}: {'; '.join(said)} "
        "(± standard error; sure: 95 %)."
    )


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


def _data(by: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """By number of tasks, model and kind: mean and standard error of the curve [P], final values [R]."""
    return {
        str(tasks): {
            model: {
                kind: {
                    "mean": some.mean(-1).tolist(),
                    "error": stats.sem(some, -1).tolist(),
                    "final": some[-1].tolist(),
                }
                for kind, some in zip(("all", "affine", "sine"), np.moveaxis(curve, -1, 0), strict=True)
            }
            for model, curve in zip(MODELS, log, strict=True)
        }
        for tasks, log in by.items()
    }
