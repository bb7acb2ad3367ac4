import pytest
import torch
from torch import nn
from torch.nn import functional as F

from impala_mi.nn.gated import Gate, GatedLinear, Highway
from impala_mi.nn.multiplicative import Diagonal
from tests.nn.test_multiplicative import randomised, streams

LAYERS = {
    "gate": lambda: Gate(6, 4),
    "gated linear": lambda: GatedLinear(6, 4, 3),
    "highway": lambda: Highway(6, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_generated_weights_reproduce_the_output(name):
    layer = randomised(LAYERS[name]())
    x, z = streams(6, 4)
    weight, bias = layer.generate(z)
    assert weight.shape == (2, 3, bias.shape[-1], 6)
    torch.testing.assert_close((weight @ x.unsqueeze(-1)).squeeze(-1) + bias, layer(x, z))


def test_a_gate_is_the_diagonal_form_behind_a_sigmoid():
    gate, diagonal = randomised(Gate(6, 4)), randomised(Diagonal(6, 4))
    with torch.no_grad():
        gate.linear.weight.copy_(diagonal.W.T)
        gate.linear.bias.copy_(diagonal.v)
        diagonal.U.zero_(), diagonal.b.zero_()
    x, z = streams(6, 4)
    a = diagonal(torch.ones_like(x), z)
    torch.testing.assert_close(diagonal(x, z), a * x)
    torch.testing.assert_close(gate(x, z), torch.sigmoid(a) * x)


def test_attentions_mask_is_a_gate_that_reads_both_streams():
    """Section 2: m = f(x, z), y = m * x with a bounded m."""
    gate = randomised(Gate(6, 10))
    x, z = streams(6, 4)
    y = gate(x, torch.cat([x, z], -1))
    m = torch.sigmoid(x @ gate.linear.weight[:, :6].T + z @ gate.linear.weight[:, 6:].T + gate.linear.bias)
    torch.testing.assert_close(y, m * x)
    assert (y.abs() <= x.abs()).all()


def test_the_gated_linear_unit_has_its_input_for_context():
    layer, x = randomised(GatedLinear(6, 6, 3)), streams(6, 1)[0]
    joined = F.linear(x, *(torch.cat(pair) for pair in zip(
        layer.linear.parameters(), layer.gate.linear.parameters(), strict=True
    )))  # fmt: skip
    torch.testing.assert_close(layer(x, x), F.glu(joined))


def test_the_highway_layer_has_its_input_for_context():
    """Srivastava et al. (2015), equation 3: H(x) T(x) + x (1 - T(x)), T = sigmoid(W_T x + b_T)."""
    layer, x = randomised(Highway(6, 6)), streams(6, 1)[0]
    (w_h, w_t), (b_h, b_t) = layer.linear.weight.chunk(2), layer.linear.bias.chunk(2)
    h, t = torch.relu(x @ w_h.T + b_h), torch.sigmoid(x @ w_t.T + b_t)
    torch.testing.assert_close(layer(x, x), h * t + x * (1 - t))


def test_the_highway_layer_is_a_sum_of_two_gated_streams():
    """H is let through by T, x by 1 - T; the second gate is the first with its sign turned."""
    layer, opened, carried = randomised(Highway(6, 4)), Gate(6, 4).double(), Gate(6, 4).double()
    (w_h, w_t), (b_h, b_t) = layer.linear.weight.chunk(2), layer.linear.bias.chunk(2)
    with torch.no_grad():
        for gate, sign in ((opened, 1), (carried, -1)):
            gate.linear.weight.copy_(sign * w_t)
            gate.linear.bias.copy_(sign * b_t)
    x, z = streams(6, 4)
    torch.testing.assert_close(layer(x, z), opened(torch.relu(F.linear(z, w_h, b_h)), z) + carried(x, z))


def test_a_highway_layer_starts_by_carrying_its_input():
    layer, x = Highway(64, 64), torch.randn(500, 64)
    assert nn.functional.mse_loss(layer(x, x), x) < 0.25
