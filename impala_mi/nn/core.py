"""The recurrent core: an LSTM whose state is reset where an episode starts."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from impala_mi.types import CoreState


class CoreOutput(NamedTuple):
    """What a core makes of T steps."""

    output: Float[Tensor, "T B H"]
    state: CoreState
    """After the last step."""
    before: dict[int, CoreState]
    """The states before the steps at which some episode starts, as they were before the reset."""


def single_bias_lstm(inputs: int, width: int) -> nn.LSTM:
    """TensorFlow's LSTM: one bias (PyTorch's second is frozen at zero), forget gates biased to 1."""
    lstm = nn.LSTM(inputs, width)
    bias, frozen = lstm.get_parameter("bias_ih_l0"), lstm.get_parameter("bias_hh_l0")
    nn.init.zeros_(frozen.requires_grad_(False))
    with torch.no_grad():
        bias.zero_()[width : 2 * width] = 1.0
    return lstm


class LSTMCore(nn.Module):
    """One LSTM call for each stretch without an episode start."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = single_bias_lstm(inputs, width)

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: CoreState) -> CoreOutput:
        """Outputs [T, B, H]; the state of column b is zeroed before every t with first[t, b]."""
        starts = [t for t, any_first in enumerate(first.any(1).tolist()) if any_first]  # a sync on GPUs
        outputs, before = [], {}
        for begin, end in pairwise([0, *(t for t in starts if t), x.shape[0]]):
            if begin in starts:
                before[begin] = state
                starts_here = first[begin].unsqueeze(-1)
                # Filled, not multiplied: 0 x NaN is NaN, and a bad episode would never end.
                state = CoreState(state.hidden.masked_fill(starts_here, 0), state.cell.masked_fill(starts_here, 0))
            out, (hidden, cell) = self.lstm(x[begin:end], (state.hidden.unsqueeze(0), state.cell.unsqueeze(0)))
            state = CoreState(hidden.squeeze(0), cell.squeeze(0))
            outputs.append(out)
        return CoreOutput(outputs[0] if len(outputs) == 1 else torch.cat(outputs), state, before)


class FeedForwardCore(nn.Module):
    """A linear layer with a ReLU in the LSTM's place: remembers nothing."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: CoreState) -> CoreOutput:
        """Outputs [T, B, H]; the state passes unchanged."""
        return CoreOutput(torch.relu(self.linear(x)), state, dict.fromkeys(range(x.shape[0]), state))
