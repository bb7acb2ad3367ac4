"""Cores: an LSTM whose state is reset where an episode starts, and layers that remember nothing."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from impala_mi.nn.gated import Highway
from impala_mi.nn.packed import Layer, forget, linear, packs
from impala_mi.types import CoreState

Before = Callable[[Int[Tensor, " F"], Int[Tensor, " F"]], CoreState]
"""States [F, H] by times and columns."""


class CoreOutput(NamedTuple):
    """What a core makes of T steps."""

    output: Float[Tensor, "T B H"]
    state: CoreState
    """After the last step."""
    before: Before
    """States before steps at which episodes start (and before a single step), not yet reset."""


def single_bias_lstm(inputs: int, width: int) -> nn.LSTM:
    """TensorFlow's LSTM: one bias (PyTorch's second is frozen at zero), forget gates biased to 1."""
    lstm = nn.LSTM(inputs, width)
    bias, frozen = lstm.get_parameter("bias_ih_l0"), lstm.get_parameter("bias_hh_l0")
    nn.init.zeros_(frozen.requires_grad_(False))
    with torch.no_grad():
        bias.zero_()[width : 2 * width] = 1.0
    return lstm


def reset(state: CoreState, first: Bool[Tensor, " B"]) -> CoreState:
    """Zeros where an episode starts. Filled, not multiplied: 0 x NaN is NaN, and a bad episode would never end."""
    here = first.to(state.cell.device, non_blocking=True).unsqueeze(-1)
    return CoreState(state.hidden.masked_fill(here, 0), state.cell.masked_fill(here, 0))


class LSTMCore(nn.Module):
    """One LSTM call for each stretch without an episode start, or `even` work.

    `first` is in the host's memory, wherever the weights are: it decides what is computed. With `even` it is where
    the weights are, and the same is computed whatever it says, step by step: what a CUDA graph needs.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = single_bias_lstm(inputs, width)
        self.fixed_work = False
        self.packed: Layer | None = None
        self.register_load_state_dict_post_hook(forget)

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: CoreState) -> CoreOutput:
        """Outputs [T, B, H]; the state of column b is zeroed before every t with first[t, b]."""
        if len(x) == 1 and packs(self.lstm.get_parameter("weight_ih_l0")):
            return self._act(x[0], first[0], state)
        self.packed = None
        if self.fixed_work or len(x) == 1:
            return self._steps(x, first, state)
        starts = [t for t, any_first in enumerate(first.any(1).tolist()) if any_first]
        outputs, before = [], {}
        for begin, end in pairwise([0, *(t for t in starts if t), x.shape[0]]):
            if begin in starts:
                before[begin] = state
                state = reset(state, first[begin])
            out, (hidden, cell) = self.lstm(x[begin:end], (state.hidden.unsqueeze(0), state.cell.unsqueeze(0)))
            state = CoreState(hidden.squeeze(0), cell.squeeze(0))
            outputs.append(out)

        def at(times: Tensor, columns: Tensor) -> CoreState:
            found = [before[t] for t in times.tolist()]
            return CoreState(
                *(
                    torch.stack([states[column] for states, column in zip(part, columns.tolist(), strict=True)])
                    for part in zip(*found, strict=True)
                )
            )

        return CoreOutput(outputs[0] if len(outputs) == 1 else torch.cat(outputs), state, at)

    def _steps(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: CoreState) -> CoreOutput:
        """The products in the weights' own precision, the state in its own."""
        w_x, w_h, bias, _ = self.lstm.parameters()
        products = F.linear(x.to(w_x.dtype), w_x, bias).to(state.cell.dtype)
        before, outputs = [], []
        for t in range(len(products)):
            before.append(state)
            begin = reset(state, first[t])
            state = lstm_cell(products[t], F.linear(begin.hidden.to(w_h.dtype), w_h), begin.cell)
            outputs.append(state.hidden)

        def at(times: Tensor, columns: Tensor) -> CoreState:
            return CoreState(*(torch.stack(part)[times, columns] for part in zip(*before, strict=True)))

        return CoreOutput(torch.stack(outputs), state, at)

    def _act(self, x: Float[Tensor, "B D"], first: Bool[Tensor, " B"], state: CoreState) -> CoreOutput:
        """A step whose two products are one."""
        w_x, w_h, bias, _ = self.lstm.parameters()
        if self.packed is None:
            self.packed = linear(torch.cat([w_x, w_h], 1), bias, len(x))
        begin = reset(state, first) if first.any() else state
        gates = self.packed(torch.cat([x.to(w_x.dtype), begin.hidden.to(w_h.dtype)], 1))
        after = _cell(gates.to(begin.cell.dtype), begin.cell)
        return CoreOutput(
            after.hidden.unsqueeze(0), after, lambda times, columns: CoreState(*(s[columns] for s in state))
        )


def lstm_cell(
    from_input: Float[Tensor, "B G"], from_hidden: Float[Tensor, "B G"], cell: Float[Tensor, "B H"]
) -> CoreState:
    """The state after a step, from the gates' two products; G = 4 H, PyTorch's order."""
    from_hidden = from_hidden.to(from_input.dtype)
    if cell.is_cuda:  # one kernel instead of a dozen
        hidden, cell, _ = torch.ops.aten._thnn_fused_lstm_cell(from_input, from_hidden, cell)
        return CoreState(hidden, cell)
    return _cell(from_input + from_hidden, cell)


def _cell(gates: Float[Tensor, "B G"], cell: Float[Tensor, "B H"]) -> CoreState:
    i, f, g, o = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return CoreState(torch.sigmoid(o) * torch.tanh(cell), cell)


class FeedForwardCore(nn.Module):
    """A linear layer with a ReLU in the LSTM's place: remembers nothing."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: CoreState) -> CoreOutput:
        """Outputs [T, B, H]; the state passes unchanged."""
        output = self._features(x.to(self.linear.weight.dtype))

        def at(_: Tensor, columns: Tensor) -> CoreState:
            there = columns.to(state.hidden.device, non_blocking=True)
            return CoreState(*(part[there] for part in state))

        return CoreOutput(output.to(state.hidden.dtype), state, at)

    def _features(self, x: Float[Tensor, "T B D"]) -> Float[Tensor, "T B H"]:
        return torch.relu(self.linear(x))


class HighwayCore(FeedForwardCore):
    """A highway layer behind the linear one, which brings the input to its width: remembers nothing either."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(inputs, width)
        self.highway = Highway(width, width)

    def _features(self, x: Float[Tensor, "T B D"]) -> Float[Tensor, "T B H"]:
        features = super()._features(x)
        return self.highway(features, features)
