import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from impala_mi.nn.multiplicative import (
    Additive,
    DeepHyperNetwork,
    Diagonal,
    Film,
    HyperNetwork,
    LowRank,
    Multiplicative,
    ScaleBias,
)

widths = st.integers(1, 7)


def randomised(layer):
    for p in layer.parameters():
        nn.init.normal_(p)
    return layer.double()


@pytest.mark.slow
@given(widths, widths, widths)
@settings(deadline=None, max_examples=50)
def test_full_form_is_equation_1_in_either_order_of_contraction(n, m, k):
    layer = randomised(Multiplicative(n, m, k))
    x, z = torch.randn(4, 3, n).double(), torch.randn(4, 3, m).double()
    for t in range(4):
        for b in range(3):
            xi, zi = x[t, b], z[t, b]
            want = torch.zeros(k).double()
            for out in range(k):  # the footnote of section 2, written out
                want[out] = sum(zi[i] * layer.W[i, j, out] * xi[j] for i in range(m) for j in range(n))
            want = want + zi @ layer.U + layer.V @ xi + layer.b
            torch.testing.assert_close(layer(x, z)[t, b], want)


def test_equals_appendix_b():
    """W = Linear(output * input)(z), b = Linear(output)(z), y = x W + b."""
    n, m, k = 6, 4, 3
    layer = randomised(Multiplicative(n, m, k))
    to_weight, to_bias = nn.Linear(m, n * k).double(), nn.Linear(m, k).double()
    with torch.no_grad():
        to_weight.weight.copy_(layer.W.reshape(m, n * k).T)
        to_weight.bias.copy_(layer.V.T.reshape(-1))
        to_bias.weight.copy_(layer.U.T)
        to_bias.bias.copy_(layer.b)
    x, z = torch.randn(5, n).double(), torch.randn(5, m).double()
    want = (x.unsqueeze(1) @ to_weight(z).view(5, n, k)).squeeze(1) + to_bias(z)
    torch.testing.assert_close(layer(x, z), want)


LAYERS = {
    "full, x first": lambda: Multiplicative(6, 4, 3),
    "full, z first": lambda: Multiplicative(4, 6, 3),
    "low rank": lambda: LowRank(6, 4, 3, 2),
    "diagonal": lambda: Diagonal(6, 4),
    "scale and bias": lambda: ScaleBias(6, 4),
    "scale and bias, channels": lambda: ScaleBias(6, 4, 3),
    "hypernetwork": lambda: HyperNetwork(6, 3, nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 21))),
    "deep hypernetwork": lambda: DeepHyperNetwork(6, 4, 3, 5),
    "film": lambda: Film(6, 4, 3),
    "additive": lambda: Additive(6, 4, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_generated_weights_reproduce_the_output(name):
    layer = randomised(LAYERS[name]())
    n, m = (4, 6) if name == "full, z first" else (6, 4)
    x, z = torch.randn(2, 5, n).double(), torch.randn(2, 5, m).double()
    weight, bias = layer.generate(z)
    assert weight.shape == (2, 5, bias.shape[-1], n)
    torch.testing.assert_close((weight @ x.unsqueeze(-1)).squeeze(-1) + bias, layer(x, z))


def streams(n, m):
    return torch.randn(2, 3, n).double(), torch.randn(2, 3, m).double()


@given(widths, widths, widths, st.booleans())
@settings(deadline=None, max_examples=50)
def test_an_affine_hypernetwork_is_the_full_form(n, m, k, from_full):
    """Section 2: where f and g are affine, one is exactly the other; here in both directions."""
    full, generator = randomised(Multiplicative(n, m, k)), randomised(nn.Linear(m, k * n + k))
    hyper = HyperNetwork(n, k, generator)
    with torch.no_grad():
        if from_full:
            generator.weight.copy_(torch.cat([full.W.permute(2, 1, 0).reshape(k * n, m), full.U.T]))
            generator.bias.copy_(torch.cat([full.V.reshape(-1), full.b]))
        else:
            to_weight, to_bias = generator.weight.split([k * n, k])
            full.W.copy_(to_weight.view(k, n, m).permute(2, 1, 0))
            full.U.copy_(to_bias.T)
            full.V.copy_(generator.bias[: k * n].view(k, n))
            full.b.copy_(generator.bias[k * n :])
    x, z = streams(n, m)
    torch.testing.assert_close(hyper(x, z), full(x, z))
    torch.testing.assert_close(hyper.generate(z), full.generate(z))


def test_any_hypernetwork_with_a_linear_output_is_the_full_form_of_an_embedded_context():
    """Section 2: 'we first embed the context z and then use it in the equation above'."""
    embed, last = nn.Sequential(nn.Linear(4, 5), nn.Tanh()).double(), nn.Linear(5, 21).double()
    deep, shallow = HyperNetwork(6, 3, nn.Sequential(embed, last)), HyperNetwork(6, 3, last)
    x, z = streams(6, 4)
    torch.testing.assert_close(deep(x, z), full_form(shallow, 5, last.weight.dtype)(x, embed(z)))


def full_form(layer, m, dtype=torch.float64):
    """The full form with the W, U, V and b that a member's generated weights show: they are affine in z."""
    weight, bias = layer.generate(torch.zeros(m, dtype=dtype))
    weights, biases = layer.generate(torch.eye(m, dtype=dtype))
    k, n = weight.shape
    full = Multiplicative(n, m, k).to(dtype)
    with torch.no_grad():
        full.W.copy_((weights - weight).transpose(1, 2))
        full.U.copy_(biases - bias)
        full.V.copy_(weight)
        full.b.copy_(bias)
    return full


AFFINE = [name for name in LAYERS if "hypernetwork" not in name]


@pytest.mark.parametrize("name", AFFINE)
def test_members_are_full_forms_with_fewer_numbers(name):
    """Figure 1: one 3D tensor, approximated."""
    layer = randomised(LAYERS[name]())
    n, m = (4, 6) if name == "full, z first" else (6, 4)
    x, z = streams(n, m)
    torch.testing.assert_close(full_form(layer, m)(x, z), layer(x, z))


def test_what_the_tensor_of_each_member_is():
    low, diagonal, film = (
        randomised(LowRank(6, 4, 3, 2)),
        randomised(Diagonal(6, 4)),
        randomised(ScaleBias(6, 4, 3)),
    )
    product = torch.einsum("mr,nr,rk->mnk", low.Q, low.P, low.R)
    torch.testing.assert_close(full_form(low, 4).W, product)
    full = full_form(diagonal, 4)
    torch.testing.assert_close(full.W, torch.diag_embed(diagonal.W))  # each slice is a diagonal matrix
    torch.testing.assert_close(full.V, torch.diag(diagonal.v))
    slices = torch.diagonal(full_form(film, 4).W, dim1=1, dim2=2)  # diagonal too, with one number a channel
    torch.testing.assert_close(torch.diag_embed(slices), full_form(film, 4).W)
    assert torch.equal(slices.view(4, 3, 2)[..., 0], slices.view(4, 3, 2)[..., 1])
    assert full_form(randomised(Additive(6, 4, 3)), 4).W.abs().max() < 1e-12


def test_low_rank_of_enough_rank_is_the_full_form():
    full, low = randomised(Multiplicative(2, 3, 2)), randomised(LowRank(2, 3, 2, 6))
    with torch.no_grad():
        for r, (i, j) in enumerate((i, j) for i in range(3) for j in range(2)):
            low.Q[:, r] = torch.eye(3)[i]
            low.P[:, r] = torch.eye(2)[j]
            low.R[r] = full.W[i, j]
        low.U.copy_(full.U), low.V.copy_(full.V), low.b.copy_(full.b)
    x, z = torch.randn(7, 2).double(), torch.randn(7, 3).double()
    torch.testing.assert_close(low(x, z), full(x, z))


def test_scale_and_bias_of_as_many_channels_is_the_diagonal_form():
    film = randomised(ScaleBias(6, 4, channels=6))
    x, z = torch.randn(3, 6).double(), torch.randn(3, 4).double()
    torch.testing.assert_close(film(x, z), film.gate(x, z))
    with pytest.raises(ValueError, match="not a multiple"):
        ScaleBias(6, 4, channels=4)


def test_scale_and_bias_is_the_diagonal_form_with_tied_entries():
    film, diagonal = randomised(ScaleBias(6, 4, channels=2)), Diagonal(6, 4).double()
    with torch.no_grad():
        for tied, own in zip(diagonal.parameters(), film.gate.parameters(), strict=True):
            tied.copy_(own.repeat_interleave(3, -1))
    x, z = streams(6, 4)
    torch.testing.assert_close(film(x, z), diagonal(x, z))


@given(widths)
@settings(deadline=None, max_examples=20)
def test_the_mahalanobis_distance_is_a_multiplicative_unit(n):
    """Section 2, metric learning: (x - z)^T C^-1 (x - z), also written out in three terms."""
    root = torch.randn(n, n).double()
    inverse = root @ root.T
    unit = Multiplicative(n, n, 1).double()
    with torch.no_grad():
        for p in unit.parameters():
            p.zero_()
        unit.W[..., 0] = inverse
    x, z = streams(n, n)
    distance = unit(x - z, x - z).squeeze(-1)
    torch.testing.assert_close(distance, torch.einsum("...i,ij,...j", x - z, inverse, x - z))
    torch.testing.assert_close(distance, (unit(x, x) - 2 * unit(x, z) + unit(z, z)).squeeze(-1))


def test_a_deep_hypernetwork_is_a_hypernetwork_of_two_layers():
    deep = randomised(DeepHyperNetwork(6, 4, 3, 5))
    last = nn.Linear(5, 21).double()
    with torch.no_grad():
        last.weight.copy_(torch.cat([deep.full.W.permute(2, 1, 0).reshape(18, 5), deep.full.U.T]))
        last.bias.copy_(torch.cat([deep.full.V.reshape(-1), deep.full.b]))
    plain = HyperNetwork(6, 3, nn.Sequential(deep.embed, nn.ReLU(), last))
    x, z = streams(6, 4)
    torch.testing.assert_close(deep(x, z), plain(x, z))


def test_film_scales_and_shifts_features():
    film = randomised(Film(6, 4, 3))
    x, z = streams(6, 4)
    gamma, beta = z @ film.G + film.g, z @ film.U
    torch.testing.assert_close(film(x, z), film.linear(gamma * x + beta))
    rank_one = film.generate(z).weight / film.generate(0 * z).weight  # the same factors in every row
    torch.testing.assert_close(rank_one, rank_one[..., :1, :].expand_as(rank_one))


RESCALED = [name for name in LAYERS if hasattr(LAYERS[name](), "rescale")]


@pytest.mark.parametrize("name", RESCALED)
def test_rescaling_multiplies_the_generated_rows(name):
    layer = randomised(LAYERS[name]())
    n, m = (4, 6) if name == "full, z first" else (6, 4)
    x, z = streams(n, m)
    scale, shift = torch.tensor([0.001, 1.0, 50.0]).double(), torch.tensor([3.0, 0.0, -7.0]).double()
    output, weight = scale * layer(x, z) + shift, scale[:, None] * layer.generate(z).weight
    layer.rescale(scale, shift)
    torch.testing.assert_close(layer(x, z), output)
    torch.testing.assert_close(layer.generate(z).weight, weight)


def test_layers_of_heads_are_rescaled():
    assert RESCALED == ["full, x first", "full, z first", "low rank", "deep hypernetwork", "film", "additive"]


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 8, 64, 512])
@pytest.mark.parametrize("make", [
    lambda n, m: Multiplicative(n, m, 200), lambda n, m: LowRank(n, m, 200, 256), lambda n, m: Film(n, m, 200),
    lambda n, m: DeepHyperNetwork(n, m, 200, 64), lambda n, m: Additive(n, m, 200),
])  # fmt: skip
def test_scale_at_the_start_is_a_linear_layers_at_any_width_of_context(make, m):
    n = 256
    x, z = torch.randn(400, n), torch.randn(400, m).sign()  # unit second moment in every unit
    assert make(n, m)(x, z).std().item() == pytest.approx(math.sqrt(1 / 3), rel=0.15)
    assert nn.Linear(n, 200)(x).std().item() == pytest.approx(math.sqrt(1 / 3), rel=0.15)
