"""Neural processes: the draws, the model against a transcription, stacks against single networks, resuming."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import distributions, nn

from impala_mi.experiments import neural_process as module
from impala_mi.experiments import np_evaluation
from impala_mi.experiments import study as study_module
from impala_mi.experiments.findings import write
from impala_mi.experiments.gaussian_process import NOISE, draw, kernel, posterior
from impala_mi.experiments.neural_process import DECODERS, Protocol, Stack, Training, overall, train, verdict
from impala_mi.experiments.np_evaluation import (
    CONTEXTS,
    POINTS,
    TARGETS,
    WEIGHTS,
    errors,
    held_out,
    interval,
    make_examples,
    oracle,
)
from impala_mi.experiments.np_model import LATENT, WIDTH, NeuralProcess, apply, parameters
from impala_mi.experiments.study import Study
from impala_mi.nn.multiplicative import Additive, Multiplicative

CPU = torch.device("cpu")
SMALL = Protocol(
    networks=2, steps=8, every=4, learning_rate=1e-4, draws=5, samples=3, curve_draws=2, curve_samples=2
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps in chunks of two, the state kept after each chunk."""
    monkeypatch.setattr(module, "QUICK", SMALL)
    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(np_evaluation, "EXAMPLE_SAMPLES", 4)
    monkeypatch.setattr(study_module, "SAVE_EVERY_S", 0.0)


def _study(folder: Path, **changes: Any) -> Study:
    return Study("neural-process", folder, {"quick": True, "seed": 1, "device": "cpu"}, **changes)


def _points(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return 4 * torch.rand(*shape) - 2, torch.randn(*shape)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_draws_have_the_covariance_of_the_kernel_and_the_noise(dtype: torch.dtype, within: float) -> None:
    x = torch.rand(POINTS, dtype=dtype) * 4 - 2
    for scale in (0.1, 1.0, 10.0):
        length = torch.tensor(scale, dtype=dtype)
        columns = draw(x, length, NOISE, torch.eye(POINTS, dtype=dtype))  # of the factor
        apart = x.double()[:, None] - x.double()
        wanted = torch.exp(-(apart**2) / (2 * scale**2)) + NOISE**2 * torch.eye(POINTS, dtype=torch.float64)
        assert torch.allclose((columns.T @ columns).double(), wanted, rtol=0, atol=within)


@settings(max_examples=25)
@given(st.integers(1, 8), st.floats(0.1, 10.0), st.integers(0, 10**6))
def test_posteriors_multiply_to_the_density_of_all_points(points: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(points, dtype=torch.float64, generator=generator) * 4 - 2
    y = torch.randn(points, dtype=torch.float64, generator=generator)
    length = torch.tensor(scale, dtype=torch.float64)
    whole = kernel(x, x, length) + NOISE**2 * torch.eye(points, dtype=torch.float64)
    wanted = distributions.MultivariateNormal(torch.zeros_like(x), whole).log_prob(y)
    found = torch.zeros((), dtype=torch.float64)
    for n in range(points):
        mean, sd = posterior(x[:n], y[:n], x[n : n + 1], length, NOISE)
        found = found + distributions.Normal(mean, sd).log_prob(y[n])
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_parameters_are_as_many_as_the_paper_s_layers_have() -> None:
    hidden, contexts = WIDTH * WIDTH + WIDTH, LATENT + WIDTH
    encoders = (3 * WIDTH + 5 * hidden) + (3 * WIDTH + 2 * hidden + hidden)  # 6 layers; 3 and what makes 2 x 64
    first, last = (1 + contexts) * WIDTH + WIDTH, 2 * WIDTH + 2
    generated = contexts * (2 * WIDTH + 2)
    wanted = {
        "mlp": first + 3 * hidden + last,
        "skip-mlp": first + 3 * (hidden + contexts * WIDTH) + last + 2 * contexts,
        "mi-x": 2 * WIDTH + 3 * hidden + last + generated,
        "mi-all": first + 3 * hidden + last + generated,
    }
    found = {name: parameters(NeuralProcess(decoder)) for name, decoder in DECODERS.items()}
    assert {name: found[name] - encoders for name in wanted} == wanted
    assert found["mi-all"] <= found["mlp-wide"] <= 1.02 * found["mi-all"]


@settings(max_examples=25)
@given(st.sampled_from([Additive, Multiplicative]), st.lists(st.integers(1, 6), min_size=5, max_size=5))
def test_a_shared_context_does_what_a_repeated_one_does(kind: type[Additive], sizes: list[int]) -> None:
    n, m, k, functions, points = sizes
    layer = kind(n, m, k)
    for p in layer.parameters():
        nn.init.normal_(p)
    x, c = torch.randn(functions, points, n), torch.randn(functions, m)
    wanted = layer(x, c.unsqueeze(1).expand(-1, points, -1))
    assert torch.allclose(apply(layer, x, c), wanted, atol=1e-4)


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


@pytest.mark.parametrize("name", DECODERS)
def test_a_stack_learns_as_its_networks_would_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clipped steps of Adam; the clip is made to bite."""
    monkeypatch.setattr(module, "CHUNK", 3)
    monkeypatch.setattr(module, "CLIP", 1e-3)
    training, again = (Training(DECODERS[name], SMALL, 1, CPU) for _ in range(2))
    total = training.learn()
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(again.stack, "terms", _listening(again.stack, seen))
    again.learn()  # only for what it sees
    for n in range(SMALL.networks):
        network = Training(DECODERS[name], SMALL, 1, CPU).stack.network(n).requires_grad_()
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
        alone, stacked = dict(network.named_parameters()), training.stack.parameters
        assert all(torch.allclose(alone[k], stacked[k][n], rtol=1e-3, atol=2e-4) for k in alone)


def _listening(stack: Stack, seen: list[tuple[Any, ...]]) -> Any:
    plain = stack.terms

    def terms(*arguments: Any) -> Any:
        seen.append(arguments)
        return plain(*arguments)

    return terms


def test_every_decoder_begins_and_learns_from_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    seen: dict[str, list[tuple[Any, ...]]] = {}
    first = {}
    for name, decoder in DECODERS.items():
        training = Training(decoder, SMALL, 1, CPU)
        first[name] = {k: p.detach().clone() for k, p in training.stack.parameters.items() if k.startswith("to_")}
        monkeypatch.setattr(training.stack, "terms", _listening(training.stack, seen.setdefault(name, [])))
        training.learn()
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


def test_errors_are_those_of_the_mixture_at_targets() -> None:
    held, network = held_out(3, 4, 0, CPU), NeuralProcess(DECODERS["mi-x"])
    assert held.x.shape == (3, POINTS + TARGETS)
    found = errors(network, held)
    assert found.shape == (2, len(CONTEXTS), 3)
    number, n = 2, 1
    x, y = held.x.float()[n], held.y.float()[n]
    with torch.no_grad():
        each = [
            network.predict(x[None, : CONTEXTS[number]], y[None, : CONTEXTS[number]], x[None, POINTS:], one[None])
            for one in held.noise[:, n : n + 1]
        ]
    density = torch.stack([distributions.Normal(p.mean, p.sd).log_prob(y[POINTS:]).exp() for p in each]).mean(0)
    assert float(found[0, number, n]) == pytest.approx(float(-density.log().mean()), rel=1e-4)
    mean = torch.stack([p.mean for p in each]).mean(0)
    assert float(found[1, number, n]) == pytest.approx(float((mean - y[POINTS:]).square().mean()), rel=1e-4)


def test_errors_do_not_depend_on_how_many_functions_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    held, network = held_out(5, 2, 0, CPU), NeuralProcess(DECODERS["skip-mlp"])
    whole = errors(network, held)
    monkeypatch.setattr(np_evaluation, "AT_ONCE", 2)
    assert torch.allclose(errors(network, held), whole, atol=1e-5)


def test_nothing_is_better_than_the_gaussian_process_and_contexts_help_it() -> None:
    held = held_out(100, 2, 0, CPU)
    floor = oracle(held).mean(-1)
    assert (floor[0].diff() < 0).all()
    assert (errors(NeuralProcess(DECODERS["mlp"]), held).mean(-1) > floor).all()


def test_examples_are_their_contexts_and_a_smooth_function() -> None:
    examples = make_examples(0, CPU)
    for x, y, truth in zip(examples.x, examples.y, examples.truth, strict=True):
        apart = np.interp(x[0], examples.grid[0], truth) - y[0].numpy()
        assert np.abs(apart).max() < 6 * NOISE  # the grid's step and the noise
    assert (examples.truth.diff(dim=-1).abs().amax(-1) < 1).all()


def test_intervals_count_networks_and_functions() -> None:
    networks, functions = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 2.0, 3.0])
    halves = [
        stats.t.ppf(0.975, len(some) - 1) * some.std(ddof=1) / len(some) ** 0.5 for some in (networks, functions)
    ]
    assert interval(networks, functions) == pytest.approx((7 / 3, np.hypot(*halves)))
    assert interval(networks[1:2], functions) == pytest.approx((2.0, halves[1]))
    assert interval(np.ones(3), np.zeros(2)) == (1.0, 0.0)


@pytest.mark.parametrize(("networks", "functions"), [(3, 200), (5, 10)])
def test_intervals_cover_the_mean(networks: int, functions: int) -> None:
    """Of networks and functions that both vary, and their interaction."""
    random, found = np.random.default_rng(0), []
    for _ in range(1000):
        values = (
            random.normal(size=(networks, 1)) / 4
            + random.normal(size=functions)
            + random.normal(size=(networks, functions))
        )
        mean, half = interval(values.mean(1), values.mean(0))
        found.append(abs(mean) < half)
    assert 0.94 < np.mean(found) < 0.995


def test_a_resumed_training_equals_an_uninterrupted_one(small: None, tmp_path: Path) -> None:
    held, examples = held_out(5, 3, 0, CPU), make_examples(0, CPU)

    def attempt(folder: Path, chunks: int) -> dict[str, Any]:
        """Interrupted in that chunk, before it is kept."""
        study, done = _study(folder), iter(range(1, 100))

        def told(share: float) -> None:
            if next(done) == chunks:
                raise KeyboardInterrupt

        return study.part("mi-x", lambda: train(study, "mi-x", SMALL, held, examples, told))

    whole = attempt(tmp_path / "whole", 99)
    for chunks in (2, 1, 3):  # two chunks of four steps make a point of the curve
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "pieces", chunks)
    pieces = attempt(tmp_path / "pieces", 99)
    assert whole.pop("seconds") > 0
    assert pieces.pop("seconds") > 0
    assert whole == pieces


def test_the_study_runs_through_and_is_read_when_it_is_done(small: None, tmp_path: Path) -> None:
    shares: list[float] = []
    study = _study(tmp_path, progress=lambda share, what: shares.append(share))
    found = module.run(study)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    files = write(study, found, "impala-mi reproduce neural-process --quick")
    assert {file.name for file in files} == {
        "curves.png", "contexts.png", "functions.png", "results.md", "results.json"
    }  # fmt: skip
    values = json.loads((tmp_path / "results.json").read_text())
    assert set(values["data"]["decoders"]) == set(DECODERS)
    main, nll, squared = values["tables"]
    assert [row[1] for row in main["rows"]][:2] == [207490, parameters(NeuralProcess(DECODERS["mlp-wide"]))]
    assert len(nll["rows"]) == len(squared["rows"]) == len(DECODERS) + 1
    curve = values["data"]["decoders"]["mi-x"]["curve"]
    assert [point["step"] for point in curve] == [4, 8]
    count = len(shares)
    assert module.run(study).verdict == found.verdict
    assert len(shares) == count


def test_weights_make_a_mean_over_all_numbers_of_contexts() -> None:
    assert WEIGHTS.sum() == pytest.approx(1)
    assert (WEIGHTS * POINTS).tolist() == [1, 2, 4, 8, 20, 15]  # 1; 2, 3; 4-7; 8-15; 16-35; 36-50


def _result(value: float, spread: float = 0.01) -> dict[str, Any]:
    table = {
        "networks": [[value - spread, value, value + spread]] * len(CONTEXTS),
        "functions": [[value - spread, value + spread]] * len(CONTEXTS),
    }
    return {"nll": table, "squared": table}


@pytest.mark.parametrize(
    ("mlp", "skip", "mi_x", "wanted"),
    [
        (1.0, 1.0, 0.0, "it held."),
        (1.0, 1.0, 2.0, "it held in part."),
        (1.0, 0.0, 1.0, "it held in part."),
        (0.0, -1.0, 0.0, "it did not hold."),
        (0.0, 0.0, 0.0, "it did not hold."),
    ],
)
def test_the_verdict_follows_from_the_numbers(mlp: float, skip: float, mi_x: float, wanted: str) -> None:
    found = {name: _result(0.0) for name in DECODERS}
    found |= {"mlp": _result(mlp), "skip-mlp": _result(skip), "mi-x": _result(mi_x)}
    text = verdict(SMALL, found, _result(-2.0), 0.1)
    assert text.startswith(wanted)
    assert f"{mlp:+.3f}" in text


def test_differences_are_of_pairs() -> None:
    """Networks far apart, and each of them a little worse than its pair."""
    one = {"networks": [[1.0, 5.0, 9.0]] * len(CONTEXTS), "functions": [[3.0, 7.0]] * len(CONTEXTS)}
    other = {"networks": [[1.1, 5.1, 9.1]] * len(CONTEXTS), "functions": [[3.1, 7.1]] * len(CONTEXTS)}
    value, half = overall(other, one)
    assert value == pytest.approx(0.1)
    assert half < 1e-9
