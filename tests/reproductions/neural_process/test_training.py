"""Stacks against single networks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from impala_mi.reproductions.batched import Networks
from impala_mi.reproductions.neural_process import training as module
from impala_mi.reproductions.neural_process.evaluation import POINTS
from impala_mi.reproductions.neural_process.model import DECODERS
from impala_mi.reproductions.neural_process.training import Training
from tests.reproductions.neural_process.small import SMALL

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", DECODERS)
def test_a_stack_learns_as_its_networks_would_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clipped steps of Adam; the clip is made to bite."""
    monkeypatch.setattr(module, "CHUNK", 3)
    monkeypatch.setattr(module, "CLIP", 1e-3)
    training, again = (Training(DECODERS[name], SMALL, 1, CPU) for _ in range(2))
    total = training.learn()
    seen = _seen(again)
    for n in range(SMALL.networks):
        network = Training(DECODERS[name], SMALL, 1, CPU).networks.network(n)
        optimiser = torch.optim.Adam(network.parameters(), SMALL.learning_rate)
        sums = 0.0
        for x, y, contexts, noise in seen:
            loss = network(x[n], y[n], contexts, noise[n]).loss.mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(network.parameters(), module.CLIP)
            optimiser.step()
            sums += loss.item()
        assert float(total[0, n]) == pytest.approx(sums, rel=1e-4)
        alone, stacked = dict(network.named_parameters()), training.networks.parameters
        assert all(torch.allclose(alone[k], stacked[k][n], rtol=1e-3, atol=2e-4) for k in alone)


def _seen(training: Training) -> list[tuple[Any, ...]]:
    """What its networks are called with while it learns."""
    seen: list[tuple[Any, ...]] = []
    plain = Networks.__call__

    def listening(self: Any, *inputs: Any) -> Any:
        seen.append(inputs)
        return plain(self, *inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Networks, "__call__", listening)
        training.learn()
    return seen


def test_every_decoder_begins_and_learns_from_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    seen: dict[str, list[tuple[Any, ...]]] = {}
    first = {}
    for name, decoder in DECODERS.items():
        training = Training(decoder, SMALL, 1, CPU)
        first[name] = {
            k: p.detach().clone() for k, p in training.networks.parameters.items() if k.startswith("to_")
        }
        seen[name] = _seen(training)
    for name in DECODERS:
        assert all(torch.equal(first[name][k], p) for k, p in first["mlp"].items())
        for one, other in zip(seen[name], seen["mlp"], strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    contexts, targets = seen["mlp"][0][2], seen["mlp"][0][0].shape[-1]
    assert 1 <= contexts <= targets <= POINTS
    one, other = (first["mlp"]["to_h.layers.0.weight"][n] for n in range(2))
    assert not torch.equal(one, other)


def test_learning_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 10)
    training = Training(DECODERS["mi-x"], replace(SMALL, networks=1), 1, CPU)
    before = training.learn()
    for _ in range(5):
        training.learn()
    assert training.learn()[0] < before[0]
