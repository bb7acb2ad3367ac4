"""The recurrent core: an LSTM whose state is reset where an episode starts."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from impala_mi.types import CoreState


class CoreOutput(NamedTuple):
    """What a core makes of T steps."""

    output: Float[Tensor, "T B H"]
    state: CoreState
    """After the last step."""
    before: dict[int, CoreState]
    """The states before the steps at which some episode starts (and before a single step), not yet reset."""


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
    """One LSTM call for each stretch without an episode start.

    `first` is in the host's memory, wherever the weights are: it decides what is computed.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = single_bias_lstm(inputs, width)

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: CoreState) -> CoreOutput:
        """Outputs [T, B, H]; the state of column b is zeroed before every t with first[t, b]."""
        if x.shape[0] == 1:
            return self._step(x[0], first[0], state)
        starts = [t for t, any_first in enumerate(first.any(1).tolist()) if any_first]
        outputs, before = [], {}
        for begin, end in pairwise([0, *(t for t in starts if t), x.shape[0]]):
            if begin in starts:
                before[begin] = state
                state = reset(state, first[begin])
            out, (hidden, cell) = self.lstm(x[begin:end], (state.hidden.unsqueeze(0), state.cell.unsqueeze(0)))
            state = CoreState(hidden.squeeze(0), cell.squeeze(0))
            outputs.append(out)
        return CoreOutput(outputs[0] if len(outputs) == 1 else torch.cat(outputs), state, before)

    def _step(self, x: Float[Tensor, "B D"], first: Bool[Tensor, " B"], state: CoreState) -> CoreOutput:
        """One step, as actors take them: the products in the weights' own precision, the state in its own."""
        w_x, w_h, bias, _ = self.lstm.parameters()
        begin = reset(state, first)
        products = F.linear(x.to(w_x.dtype), w_x, bias), F.linear(begin.hidden.to(w_h.dtype), w_h)
        i, f, g, o = (products[0].to(begin.cell.dtype) + products[1]).chunk(4, -1)
        cell = torch.sigmoid(f) * begin.cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        return CoreOutput(hidden.unsqueeze(0), CoreState(hidden, cell), {0: state})


class FeedForwardCore(nn.Module):
    """A linear layer with a ReLU in the LSTM's place: remembers nothing."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: CoreState) -> CoreOutput:
        """Outputs [T, B, H]; the state passes unchanged."""
        output = torch.relu(self.linear(x.to(self.linear.weight.dtype)))
        return CoreOutput(output.to(state.hidden.dtype), state, dict.fromkeys(range(x.shape[0]), state))
