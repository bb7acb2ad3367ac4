"""Networks with each decoder, trained and measured."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from impala_mi.host.threads import keep_freed_memory
from impala_mi.reproductions.batched import seed_of
from impala_mi.reproductions.findings import Findings
from impala_mi.reproductions.neural_process.comparison import findings
from impala_mi.reproductions.neural_process.evaluation import (
    WEIGHTS,
    Examples,
    HeldOut,
    held_out,
    make_examples,
    oracle,
    predictions,
)
from impala_mi.reproductions.neural_process.model import DECODERS, parameters
from impala_mi.reproductions.neural_process.training import CHUNK, Protocol, Training
from impala_mi.reproductions.study import Study

FULL = Protocol(5, 500_000, 10_000, 1e-4, draws=2000, samples=32, curve_draws=200, curve_samples=8)
QUICK = Protocol(3, 4000, 400, 1e-4, draws=256, samples=16, curve_draws=64, curve_samples=4)


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

    def go_on(before: dict[str, Any]) -> None:
        nonlocal first, curve
        training.load(before)
        first, curve = before["step"], before["curve"]
        total.copy_(before["total"])

    study.restore(name, go_on)
    few = held.some(protocol.curve_draws, protocol.curve_samples)
    for step in range(first + CHUNK, protocol.steps + 1, CHUNK):
        total += training.learn()
        if step % protocol.every == 0:
            loss, divergence = (total / protocol.every).tolist()
            nll = WEIGHTS @ means(training.errors(few))["nll"]["networks"]
            curve.append({"step": step, "loss": loss, "divergence": divergence, "nll": nll.tolist()})
            total.zero_()
        told(step / protocol.steps)
        progress = {"step": step, "curve": curve, "total": total}
        study.save(name, lambda p=progress: training.state() | p)  # type: ignore[misc]
    network = training.networks.network(0)
    return {
        "parameters": parameters(network), "curve": curve, **means(training.errors(held)),
        "examples": predictions(network, examples),
    }  # fmt: skip


def means(found: Tensor) -> dict[str, Any]:
    """Errors [2, networks, contexts, D] by name: means of each network and of each function, by contexts."""
    return {
        name: {"networks": one.mean(-1).T.tolist(), "functions": one.mean(0).tolist()}
        for name, one in zip(("nll", "squared"), found, strict=True)
    }
