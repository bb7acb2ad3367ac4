"""Held-out functions and their errors."""

import numpy as np
import pytest
import torch
from torch import distributions

from impala_mi.reproductions.neural_process import held_out as held_out_module
from impala_mi.reproductions.neural_process.decoders import DECODERS, NeuralProcess
from impala_mi.reproductions.neural_process.gaussian_process import NOISE
from impala_mi.reproductions.neural_process.held_out import (
    CONTEXTS,
    POINTS,
    TARGETS,
    WEIGHTS,
    errors,
    held_out,
    make_examples,
    oracle_errors,
)

CPU = torch.device("cpu")


def test_errors_are_those_of_the_mixture_at_targets() -> None:
    held, network = held_out(3, 4, 0, CPU), NeuralProcess(DECODERS["mi-x"])
    assert held.x.shape == (3, POINTS + TARGETS)
    measured = errors(network, held)
    assert measured.shape == (2, len(CONTEXTS), 3)
    number, n = 2, 1
    x, y = held.x.float()[n], held.y.float()[n]
    with torch.no_grad():
        each = [
            network.predict(x[None, : CONTEXTS[number]], y[None, : CONTEXTS[number]], x[None, POINTS:], noise[None])
            for noise in held.noise[:, n : n + 1]
        ]
    density = torch.stack([distributions.Normal(p.mean, p.sd).log_prob(y[POINTS:]).exp() for p in each]).mean(0)
    assert float(measured[0, number, n]) == pytest.approx(float(-density.log().mean()), rel=1e-4)
    mean = torch.stack([p.mean for p in each]).mean(0)
    assert float(measured[1, number, n]) == pytest.approx(float((mean - y[POINTS:]).square().mean()), rel=1e-4)


def test_errors_do_not_depend_on_how_many_functions_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    held, network = held_out(5, 2, 0, CPU), NeuralProcess(DECODERS["skip-mlp"])
    whole = errors(network, held)
    monkeypatch.setattr(held_out_module, "CHUNK_FUNCTIONS", 2)
    assert torch.allclose(errors(network, held), whole, atol=1e-5)


@pytest.mark.slow
def test_nothing_is_better_than_the_gaussian_process_and_contexts_help_it() -> None:
    held = held_out(100, 2, 0, CPU)
    floor = oracle_errors(held).mean(-1)
    assert (floor[0].diff() < 0).all()
    assert (errors(NeuralProcess(DECODERS["mlp"]), held).mean(-1) > floor).all()


def test_examples_are_their_contexts_and_a_smooth_function() -> None:
    examples = make_examples(0, CPU)
    for x, y, truth in zip(examples.x, examples.y, examples.truth, strict=True):
        apart = np.interp(x[0], examples.grid[0], truth) - y[0].numpy()
        assert np.abs(apart).max() < 6 * NOISE  # the grid's step and the noise
    assert (examples.truth.diff(dim=-1).abs().amax(-1) < 1).all()


def test_weights_make_a_mean_over_all_numbers_of_contexts() -> None:
    assert WEIGHTS.sum() == pytest.approx(1)
    assert (WEIGHTS * POINTS).tolist() == [1, 2, 4, 8, 20, 15]  # 1; 2, 3; 4-7; 8-15; 16-35; 36-50
