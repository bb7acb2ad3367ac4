"""Multiplicative LSTM core (Krause et al., 2016): the recurrent matrix depends on the input."""

from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from impala_mi.nn.core import CoreOutput, lstm_state
from impala_mi.types import LSTMState

_aten = torch.ops.aten


class MultiplicativeLSTMCore(nn.Module):
    """LSTM whose gates read m_t = (W_mx x_t) * (W_mh h_{t-1}) in place of h_{t-1}.

    The gates' sums W_hx x_t + W_hm m_t + b are the low-rank multiplicative form M(x_t, h_{t-1}) of rank H without a
    term in h alone: h_{t-1} is multiplied by the matrix W_hm diag(W_mx x_t) W_mh (paper, sections 4 and 8).

    The products with inputs are computed for all steps at once. The operations do not depend on `first`, which may
    lie in host memory or on the device of the weights.

    Initialisation: W_mx and W_mh keep the second moments of x and h; the gates start as in `single_bias_lstm`.
    """

    low_precision = True

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.from_input = nn.Parameter(torch.empty(5 * width, inputs))
        """W_mx over W_hx, the latter in the order of PyTorch's gates."""
        self.to_m = nn.Parameter(torch.empty(width, width))
        """W_mh."""
        self.from_m = nn.Parameter(torch.empty(4 * width, width))
        """W_hm."""
        self.bias = nn.Parameter(torch.zeros(4 * width))
        with torch.no_grad():
            self.bias[width : 2 * width] = 1.0
        for weight, variance in (
            (self.from_input[:width], 1 / inputs),
            (self.from_input[width:], 1 / (3 * width)),
            (self.to_m, 1 / width),
            (self.from_m, 1 / (3 * width)),
        ):
            bound = (3 * variance) ** 0.5
            nn.init.uniform_(weight, -bound, bound)

    def initial_state(self, batch: int, like: Tensor) -> LSTMState:
        """Zeros [batch, H]."""
        return lstm_state(batch, self.width, like)

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: LSTMState) -> CoreOutput:
        """Outputs [T, B, H]; the state of column b is zeroed before every t with first[t, b].

        Products are computed in the precision of the weights, the state in its own.
        """
        starts = first.to(state.cell.device, non_blocking=True).unsqueeze(-1)
        bias = F.pad(self.bias, (self.width, 0))
        products = F.linear(x.to(self.from_input.dtype), self.from_input, bias).to(state.cell.dtype)
        hidden, cell = _Recurrence.apply(products, self.to_m, self.from_m, state.hidden, state.cell, starts)

        def states_before(times: Tensor, columns: Tensor) -> LSTMState:
            rows = tuple(index.to(hidden.device, non_blocking=True) for index in (times, columns))
            before = (
                torch.cat([old.unsqueeze(0), new[:-1]]) for old, new in zip(state, (hidden, cell), strict=True)
            )
            return LSTMState(*(part[rows] for part in before))

        return CoreOutput(hidden, LSTMState(hidden[-1], cell[-1]), states_before)


class _Recurrence(torch.autograd.Function):
    """Recurrence from products with inputs [T, B, 5 H] to the states [T, B, H] after each step.

    PyTorch's autograd adds up the weights' gradients step by step; here each gradient is one product over all
    steps, which makes the recurrence twice as fast on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any, products: Tensor, to_m: Tensor, from_m: Tensor, hidden: Tensor, cell: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run all steps; the state is zeroed where `starts` [T, B, 1] is true (see `core.reset`)."""
        width = hidden.shape[-1]
        factors, from_inputs = products.split([width, 4 * width], -1)
        start, steps = hidden, []
        for factor, from_input, begins in zip(factors.unbind(), from_inputs.unbind(), starts.unbind(), strict=True):
            q = F.linear(hidden.masked_fill(begins, 0).to(to_m.dtype), to_m).to(hidden.dtype)
            from_hidden = F.linear((factor * q).to(from_m.dtype), from_m).to(hidden.dtype)
            before = cell.masked_fill(begins, 0)
            hidden, cell, gates = _cell(from_input, from_hidden, before)
            steps.append((hidden, before, cell, q, gates))
        hiddens, *kept = zip(*steps, strict=True)
        states = torch.stack([start, *hiddens])
        ctx.save_for_backward(products, to_m, from_m, starts, states, *chain(*kept))
        return states[1:], torch.stack(kept[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_cells: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all tensors but `starts`."""
        products, to_m, from_m, starts, states, *steps = ctx.saved_tensors
        count, width = len(products), states.shape[-1]
        before, cells, projected, kept = (steps[i : i + count] for i in range(0, 4 * count, count))
        factors = products[..., :width]
        gradients = []
        d_hidden = d_cell = torch.zeros_like(states[0])
        for t in reversed(range(count)):
            d_gates, d_cell = _cell_backward(
                d_hiddens[t] + d_hidden, d_cells[t] + d_cell, before[t], cells[t], kept[t]
            )
            d_m = d_gates @ from_m
            d_hidden = ((d_m * factors[t]) @ to_m).masked_fill(starts[t], 0)
            d_cell = d_cell.masked_fill(starts[t], 0)
            gradients.append((d_gates, d_m))
        d_gates, d_m = (torch.stack(part) for part in zip(*gradients[::-1], strict=True))
        q = torch.stack(projected)
        d_from_m = _over_steps(d_gates, factors * q)
        d_to_m = _over_steps(d_m * factors, states[:-1].masked_fill(starts, 0))
        return torch.cat([d_m * q, d_gates], -1), d_to_m, d_from_m, d_hidden, d_cell, None


def _over_steps(d_output: Tensor, inputs: Tensor) -> Tensor:
    """The gradient [k, n] of a weight that maps inputs [T, B, n] to outputs [T, B, k]."""
    return d_output.flatten(0, 1).T @ inputs.flatten(0, 1)


def _cell(from_input: Tensor, from_hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden state and cell [B, H] after a step, and the gates' values [B, 4 H] for `_cell_backward`."""
    if cell.is_cuda:  # one kernel instead of a dozen
        return _aten._thnn_fused_lstm_cell(from_input, from_hidden, cell)
    gates = from_input + from_hidden
    i, f, g, o = gates.chunk(4, -1)
    i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
    cell = (f * cell).addcmul_(i, g)
    return o * torch.tanh(cell), cell, gates


def _cell_backward(
    d_hidden: Tensor, d_cell: Tensor, before: Tensor, cell: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the gates' sums [B, 4 H] and of the cell before the step."""
    if cell.is_cuda:
        d_gates, d_before, _ = _aten._thnn_fused_lstm_cell_backward_impl(
            d_hidden, d_cell, before, cell, gates, False
        )
        return d_gates, d_before
    i, f, g, o = gates.chunk(4, -1)
    squashed = torch.tanh(cell)
    d_cell = d_cell + _aten.tanh_backward(d_hidden * o, squashed)
    d_gates = [
        _aten.sigmoid_backward(d_cell * g, i),
        _aten.sigmoid_backward(d_cell * before, f),
        _aten.tanh_backward(d_cell * i, g),
        _aten.sigmoid_backward(d_hidden * squashed, o),
    ]
    return torch.cat(d_gates, -1), d_cell * f
