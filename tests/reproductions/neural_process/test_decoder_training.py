"""Stacks of neural processes, compared with single networks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from impala_mi.reproductions.network_stack import NetworkStack
from impala_mi.reproductions.neural_process import decoder_training
from impala_mi.reproductions.neural_process.decoder_training import DecoderTraining
from impala_mi.reproductions.neural_process.decoders import DECODERS
from impala_mi.reproductions.neural_process.held_out import POINTS
from tests.reproductions.neural_process.small_protocol import SMALL

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_a_stack_learns_as_its_networks_would_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clipped steps of Adam; the clip is made to bite."""
    monkeypatch.setattr(decoder_training, "CHUNK", 3)
    monkeypatch.setattr(decoder_training, "CLIP", 1e-3)
    training, again = (DecoderTraining(DECODERS[name], SMALL, 1, CPU) for _ in range(2))
    total = training.learn()
    inputs_seen = _inputs(again)
    for n in range(SMALL.networks):
        network = DecoderTraining(DECODERS[name], SMALL, 1, CPU).networks.network(n)
        optimiser = torch.optim.Adam(network.parameters(), SMALL.learning_rate)
        sums = 0.0
        for x, y, contexts, noise in inputs_seen:
            loss = network(x[n], y[n], contexts, noise[n]).loss.mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(network.parameters(), decoder_training.CLIP)
            optimiser.step()
            sums += loss.item()
        assert float(total[0, n]) == pytest.approx(sums, rel=1e-4)
        alone, stacked = dict(network.named_parameters()), training.networks.parameters
        assert all(torch.allclose(alone[k], stacked[k][n], rtol=1e-3, atol=2e-4) for k in alone)


def _inputs(training: DecoderTraining) -> list[tuple[Any, ...]]:
    """Inputs of its networks while it learns."""
    inputs_seen: list[tuple[Any, ...]] = []
    plain = NetworkStack.__call__

    def listening(self: Any, *inputs: Any) -> Any:
        inputs_seen.append(inputs)
        return plain(self, *inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkStack, "__call__", listening)
        training.learn()
    return inputs_seen


@pytest.mark.slow
def test_every_decoder_begins_and_learns_from_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_training, "CHUNK", 2)
    inputs_seen: dict[str, list[tuple[Any, ...]]] = {}
    first = {}
    for name, decoder in DECODERS.items():
        training = DecoderTraining(decoder, SMALL, 1, CPU)
        first[name] = {
            k: p.detach().clone() for k, p in training.networks.parameters.items() if k.startswith("to_")
        }
        inputs_seen[name] = _inputs(training)
    for name in DECODERS:
        assert all(torch.equal(first[name][k], p) for k, p in first["mlp"].items())
        for own, other in zip(inputs_seen[name], inputs_seen["mlp"], strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(own, other, strict=True))
    contexts, targets = inputs_seen["mlp"][0][2], inputs_seen["mlp"][0][0].shape[-1]
    assert 1 <= contexts <= targets <= POINTS
    network, other = (first["mlp"]["to_h.layers.0.weight"][n] for n in range(2))
    assert not torch.equal(network, other)


@pytest.mark.slow
def test_learning_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_training, "CHUNK", 10)
    training = DecoderTraining(DECODERS["mi-x"], replace(SMALL, networks=1), 1, CPU)
    before = training.learn()
    for _ in range(5):
        training.learn()
    assert training.learn()[0] < before[0]
