"""The multiplicative LSTM: what it is in the family, and that its own gradients are right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from impala_mi.nn.core import LSTMCore, lstm_cell, reset
from impala_mi.nn.mlstm import MultiplicativeLSTMCore, _Recurrence
from impala_mi.nn.multiplicative import Diagonal, LowRank, Multiplicative
from impala_mi.types import LSTMState
from tests.nn.test_multiplicative import randomised

D, H, T, B = 5, 4, 7, 3


def core_and_inputs():
    core = randomised(MultiplicativeLSTMCore(D, H))
    state = LSTMState(*torch.randn(2, B, H).double())
    return core, torch.randn(T, B, D).double(), torch.rand(T, B) < 0.2, state


def by_hand(core, x, first, state):
    """Krause et al. (2016), with biases and resets, step by step."""
    w_mx, w_hx = core.from_input[:H], core.from_input[H:]
    outputs = []
    for t in range(len(x)):
        state = reset(state, first[t])
        m = (x[t] @ w_mx.T) * (state.hidden @ core.to_m.T)
        i, f, candidate, o = (x[t] @ w_hx.T + m @ core.from_m.T + core.bias).chunk(4, -1)
        cell = torch.sigmoid(f) * state.cell + torch.sigmoid(i) * torch.tanh(candidate)
        state = LSTMState(torch.sigmoid(o) * torch.tanh(cell), cell)
        outputs.append(state.hidden)
    return torch.stack(outputs), state


def test_it_is_the_published_one_and_so_are_its_gradients():
    core, x, first, state = core_and_inputs()
    assert first[1:].any()
    x, state = x.requires_grad_(), LSTMState(*(part.requires_grad_() for part in state))
    results = []
    for output, after in (by_hand(core, x, first, state), core(x, first, state)[:2]):
        loss = (output * torch.arange(H)).square().sum() + after.cell.sum()
        results.append((output, after, torch.autograd.grad(loss, [x, *state, *core.parameters()])))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.slow
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=15)
def test_gradients_of_states_at_any_step_are_right(steps, columns, width, seed):
    torch.manual_seed(seed)
    shapes = [(steps, columns, 5 * width), (width, width), (4 * width, width), (columns, width), (columns, width)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    first = torch.rand(steps, columns, 1) < 0.3
    assert torch.autograd.gradcheck(lambda *given: _Recurrence.apply(*given, first), tensors)


def test_the_intermediate_state_is_the_diagonal_form():
    """m_t = (W_mx x_t) * (W_mh h): a diagonal matrix that the input generates, without V, U and b."""
    core, x, _, state = core_and_inputs()
    diagonal = randomised(Diagonal(H, D))
    with torch.no_grad():
        diagonal.W.copy_(core.from_input[:H].T)
        for p in (diagonal.U, diagonal.v, diagonal.b):
            p.zero_()
    projected = state.hidden @ core.to_m.T
    m = (x[0] @ core.from_input[:H].T) * projected
    torch.testing.assert_close(diagonal(projected, x[0]), m)


def gates_of(core):
    """M(x, h), low rank: P = W_mx^T, Q = W_mh^T, R = W_hm^T, V = W_hx and no U."""
    low = LowRank(D, H, 4 * H, rank=H).double()
    with torch.no_grad():
        low.P.copy_(core.from_input[:H].T)
        low.Q.copy_(core.to_m.T)
        low.R.copy_(core.from_m.T)
        low.U.zero_()
        low.V.copy_(core.from_input[H:])
        low.b.copy_(core.bias)
    return low


def test_its_gates_are_the_low_rank_form_of_input_and_state():
    core, x, _, state = core_and_inputs()
    sums = gates_of(core)(x[0], state.hidden)
    want = lstm_cell(sums, torch.zeros_like(sums), state.cell)
    torch.testing.assert_close(core(x[:1], torch.zeros(1, B, dtype=torch.bool), state).state, want)


def test_each_input_has_a_recurrent_matrix_of_its_own():
    """Sutskever et al. (2011): W_hh of x is W_hm diag(W_mx x) W_mh; here the weights that x generates for h."""
    core, x, _, _ = core_and_inputs()
    mirrored, low = LowRank(H, D, 4 * H, rank=H).double(), gates_of(core)
    with torch.no_grad():
        mirrored.P.copy_(low.Q), mirrored.Q.copy_(low.P), mirrored.R.copy_(low.R), mirrored.V.zero_()
    want = core.from_m @ torch.diag_embed(x @ core.from_input[:H].T) @ core.to_m
    torch.testing.assert_close(mirrored.generate(x).weight, want)


def test_without_multiplication_it_is_the_lstm():
    """A constant input of one makes W_mx x one: with W_mh = 1 the gates read h itself."""
    core, x, first, state = core_and_inputs()
    lstm = randomised(LSTMCore(D, H))
    x[..., 0] = 1
    with torch.no_grad():
        lstm.lstm.bias_hh_l0.zero_()
        core.from_input[:H] = 0
        core.from_input[:H, 0] = 1
        core.to_m.copy_(torch.eye(H))
        core.from_input[H:] = lstm.lstm.weight_ih_l0
        core.from_m.copy_(lstm.lstm.weight_hh_l0)
        core.bias.copy_(lstm.lstm.bias_ih_l0)
    mine, theirs = core(x, first, state), lstm(x, first, state)
    torch.testing.assert_close(mine[:2], theirs[:2])
    starts = first.any(1).nonzero().squeeze(1)[-1:]
    torch.testing.assert_close(mine.before(starts, torch.tensor([1])), theirs.before(starts, torch.tensor([1])))


def test_an_lstms_gates_are_the_last_three_terms_of_the_multiplicative_embedding():
    """Section 8: M(z_t, h_{t-1}) = z^T W h + z^T U + V h + b, whose last three terms feed the gates already."""
    embedding, (hidden, cell) = torch.randn(B, D).double(), torch.randn(2, B, H).double()
    lstm, m = nn.LSTMCell(D, H).double(), Multiplicative(D, H, 4 * H).double()
    with torch.no_grad():
        m.W.zero_()
        m.V.copy_(lstm.weight_ih)
        m.U.copy_(lstm.weight_hh.T)
        m.b.copy_(lstm.bias_ih + lstm.bias_hh)
    sums = m(embedding, hidden)
    torch.testing.assert_close(
        tuple(lstm_cell(sums, torch.zeros_like(sums), cell)), lstm(embedding, (hidden, cell))
    )


def test_the_diagonal_multiplicative_embedding_adds_only_a_product_to_the_gates():
    """Section 8: what an LSTM makes of M(z_t, h_{t-1}) in its diagonal form, as used there for input embeddings."""
    embedding, hidden = torch.randn(B, D).double(), torch.randn(B, H).double()
    weight_ih, weight_hh = torch.randn(4 * H, D).double(), torch.randn(4 * H, H).double()
    layer = randomised(Diagonal(D, H))
    got = F.linear(layer(embedding, hidden), weight_ih) + F.linear(hidden, weight_hh)
    affine = LowRank(D, H, 4 * H, rank=D).double()
    with torch.no_grad():
        affine.P.copy_(torch.eye(D))
        affine.Q.copy_(layer.W)
        affine.R.copy_(weight_ih.T)
        affine.U.copy_(layer.U @ weight_ih.T + weight_hh.T)
        affine.V.copy_(weight_ih * layer.v)
        affine.b.copy_(weight_ih @ layer.b)
    torch.testing.assert_close(affine(embedding, hidden), got)


def test_states_before_steps_are_those_after_the_last_not_yet_reset():
    core, x, first, state = core_and_inputs()
    out = core(x, first, state)
    alone = core(x[:4], first[:4], state).state
    got = out.before(torch.tensor([4, 4, 0]), torch.tensor([2, 0, 1]))
    for part, after, begin in zip(got, alone, state, strict=True):
        torch.testing.assert_close(part, torch.stack([after[2], after[0], begin[1]]))


@pytest.mark.parametrize("inputs", [8, 256])
def test_the_product_starts_as_large_as_its_parts(inputs):
    core = MultiplicativeLSTMCore(inputs, 256)
    x, h = torch.randn(400, inputs), torch.randn(400, 256) / 6
    m = (x @ core.from_input[:256].T) * (h @ core.to_m.T)
    assert m.std().item() == pytest.approx(1 / 6, rel=0.15)
