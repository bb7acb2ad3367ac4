"""Neural processes, compared with a transcription."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions, nn

from impala_mi.nn.meta import num_parameters
from impala_mi.nn.multiplicative import Additive, Multiplicative
from impala_mi.reproductions.neural_process.decoders import DECODERS, LATENT, WIDTH, NeuralProcess, apply_shared
from impala_mi.reproductions.neural_process.gaussian_process import NOISE


def _points(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return 4 * torch.rand(*shape) - 2, torch.randn(*shape)


def test_parameters_are_as_many_as_the_paper_s_layers_have() -> None:
    hidden, contexts = WIDTH * WIDTH + WIDTH, LATENT + WIDTH
    encoders = (3 * WIDTH + 5 * hidden) + (3 * WIDTH + 2 * hidden + hidden)  # 6 layers; 3 and what makes 2 x 64
    first, last = (1 + contexts) * WIDTH + WIDTH, 2 * WIDTH + 2
    generated = contexts * (2 * WIDTH + 2)
    expected = {
        "mlp": first + 3 * hidden + last,
        "skip-mlp": first + 3 * (hidden + contexts * WIDTH) + last + 2 * contexts,
        "mi-x": 2 * WIDTH + 3 * hidden + last + generated,
        "mi-all": first + 3 * hidden + last + generated,
    }
    counts = {name: num_parameters(NeuralProcess(decoder)) for name, decoder in DECODERS.items()}
    assert {name: counts[name] - encoders for name in expected} == expected
    assert counts["mi-all"] <= counts["mlp-wide"] <= 1.02 * counts["mi-all"]


@settings(max_examples=25)
@given(st.sampled_from([Additive, Multiplicative]), st.lists(st.integers(1, 6), min_size=5, max_size=5))
def test_a_shared_context_equals_a_repeated_one(kind: type[Additive], sizes: list[int]) -> None:
    n, m, k, functions, points = sizes
    layer = kind(n, m, k)
    for p in layer.parameters():
        nn.init.normal_(p)
    x, c = torch.randn(functions, points, n), torch.randn(functions, m)
    expected = layer(x, c.unsqueeze(1).expand(-1, points, -1))
    assert torch.allclose(apply_shared(layer, x, c), expected, atol=1e-4)


@torch.no_grad()
def _transcribed(network: NeuralProcess, x: Any, y: Any, contexts: int, noise: Any) -> tuple[float, float]:
    """One function's terms, point by point and with PyTorch's distributions."""

    def embedded(encoder: Any, n: int) -> torch.Tensor:
        row = torch.stack([x[n], y[n]])
        for layer in encoder.layers:
            row = torch.relu(layer(row))
        return row

    def latent(points: int) -> distributions.Normal:
        average = torch.stack([embedded(network.to_z, n) for n in range(points)]).mean(0)
        mean, raw = network.to_z.after(average).split(LATENT)
        return distributions.Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw))

    h = torch.stack([network.to_h.after(embedded(network.to_h, n)) for n in range(contexts)]).mean(0)
    prior, q = latent(contexts), latent(len(x))
    c = torch.cat([q.mean + q.stddev * noise, h])
    density = 0.0
    for n in range(len(x)):
        row = x[n : n + 1]
        for layer in network.decode.hidden:
            row = torch.relu(layer(row, c) if isinstance(layer, Additive) else layer(row))
        last = network.decode.last
        mean, raw = last(row) if isinstance(last, nn.Linear) else last(row, c)
        sd = NOISE + (1 - NOISE) * nn.functional.softplus(raw)
        density += float(distributions.Normal(mean, sd).log_prob(y[n]))
    return density / len(x), float(distributions.kl_divergence(q, prior).sum()) / len(x)


@pytest.mark.parametrize("name", DECODERS)
def test_terms_equal_a_transcription(name: str) -> None:
    network = NeuralProcess(DECODERS[name])
    x, y = _points(3, 7)
    noise = torch.randn(3, LATENT)
    with torch.no_grad():
        terms = network(x, y, 4, noise)
    for n in range(3):
        density, divergence = _transcribed(network, x[n], y[n], 4, noise[n])
        assert float(terms.log_likelihood[n]) == pytest.approx(density, rel=1e-4, abs=1e-4)
        assert float(terms.divergence[n]) == pytest.approx(divergence, rel=1e-4, abs=1e-5)
        assert float(terms.loss[n]) == pytest.approx(divergence - density, rel=1e-4, abs=1e-4)


def test_without_its_interaction_the_multiplicative_decoder_is_the_mlp() -> None:
    both, mlp = NeuralProcess(DECODERS["mi-all"]), NeuralProcess(DECODERS["mlp"])
    last: Any = both.decode.last
    nn.init.zeros_(last.W)  # U starts at zero
    of_last = {"decode.last.weight": last.V, "decode.last.bias": last.b}
    shared = {k: v for k, v in both.state_dict().items() if not k.startswith("decode.last.")}
    mlp.load_state_dict(shared | of_last)
    x, y = _points(2, 9)
    noise = torch.randn(2, LATENT)
    for one, other in zip(both(x, y, 3, noise), mlp(x, y, 3, noise), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@settings(max_examples=20)
@given(st.permutations(range(6)), st.sampled_from(list(DECODERS)))
def test_the_order_of_contexts_does_not_matter(order: list[int], name: str) -> None:
    network = NeuralProcess(DECODERS[name])
    x, y = _points(2, 6)
    at, noise = torch.linspace(-2, 2, 5).expand(2, -1), torch.randn(3, 2, LATENT)
    one, other = network.predict(x, y, at, noise), network.predict(x[:, order], y[:, order], at, noise)
    assert one.mean.shape == one.sd.shape == (3, 2, 5)
    assert torch.allclose(one.mean, other.mean, atol=1e-5)
    assert torch.allclose(one.sd, other.sd, atol=1e-5)
