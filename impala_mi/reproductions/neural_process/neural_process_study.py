"""Networks with each decoder, trained and measured."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from impala_mi.host.threads import keep_freed_memory
from impala_mi.nn.meta import num_parameters
from impala_mi.reproductions.network_stack import seed_of
from impala_mi.reproductions.neural_process.decoder_training import CHUNK, DecoderTraining, NeuralProcessProtocol
from impala_mi.reproductions.neural_process.decoders import DECODERS
from impala_mi.reproductions.neural_process.held_out import (
    WEIGHTS,
    Examples,
    HeldOut,
    held_out,
    make_examples,
    oracle_errors,
    oracle_predictions,
    predictions,
)
from impala_mi.reproductions.neural_process.neural_process_report import report_from_data
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import StudyReport, as_stored

FULL = NeuralProcessProtocol(5, 500_000, 10_000, 1e-4, draws=2000, samples=32, curve_draws=200, curve_samples=8)
QUICK = NeuralProcessProtocol(3, 4000, 400, 1e-4, draws=256, samples=16, curve_draws=64, curve_samples=4)


def run_study(study: Study) -> StudyReport:
    """Train networks with each decoder and compare them on held-out functions; finished parts are read."""
    protocol = QUICK if study.quick else FULL
    study.begin(**asdict(protocol))
    keep_freed_memory()
    held = held_out(protocol.draws, protocol.samples, seed_of("held out", study.seed), study.device)
    examples = make_examples(seed_of("examples", study.seed), study.device)

    def progress(number: int, name: str, share: float) -> None:
        study.progress((number + share) / len(DECODERS), name)

    results = {
        name: study.part(
            name, partial(train_decoder, study, name, protocol, held, examples, partial(progress, number, name))
        )
        for number, name in enumerate(DECODERS)
    }
    floor = mean_errors(oracle_errors(held)[:, None]) | {"examples": oracle_predictions(examples)}
    drawn = {
        "grid": examples.grid[0].tolist(),
        "truth": examples.truth.tolist(),
        "contexts": [[x[0].tolist(), y[0].tolist()] for x, y in zip(examples.x, examples.y, strict=True)],
    }
    data = {"protocol": asdict(protocol), "decoders": results, "gaussian process": floor, "examples": drawn}
    return report_from_data(as_stored(data))


def train_decoder(
    study: Study,
    name: str,
    protocol: NeuralProcessProtocol,
    held: HeldOut,
    examples: Examples,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Train networks with one decoder; return their curves, errors and predictions."""
    training = DecoderTraining(DECODERS[name], protocol, study.seed, study.device)
    first, curve = 0, []
    total = torch.zeros(2, protocol.networks, device=study.device)

    def load(state: dict[str, Any]) -> None:
        nonlocal first, curve
        training.load(state)
        first, curve = state["step"], state["curve"]
        total.copy_(state["total"])

    study.restore(name, load)
    subset = held.subset(protocol.curve_draws, protocol.curve_samples)
    for step in range(first + CHUNK, protocol.steps + 1, CHUNK):
        total += training.learn()
        if step % protocol.every == 0:
            loss, divergence = (total / protocol.every).tolist()
            nll = WEIGHTS @ mean_errors(training.errors(subset))["nll"]["networks"]
            curve.append({"step": step, "loss": loss, "divergence": divergence, "nll": nll.tolist()})
            total.zero_()
        progress(step / protocol.steps)
        own = {"step": step, "curve": curve, "total": total}
        study.save(name, lambda own=own: training.state() | own)  # type: ignore[misc]
    network = training.networks.network(0)
    return {
        "parameters": num_parameters(network), "curve": curve, **mean_errors(training.errors(held)),
        "examples": predictions(network, examples),
    }  # fmt: skip


def mean_errors(errors: Tensor) -> dict[str, Any]:
    """Errors [2, networks, contexts, D] by name: means of each network and of each function, by contexts."""
    return {
        name: {"networks": values.mean(-1).T.tolist(), "functions": values.mean(0).tolist()}
        for name, values in zip(("nll", "squared"), errors, strict=True)
    }
