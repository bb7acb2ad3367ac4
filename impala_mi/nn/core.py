"""Recurrent cores: an LSTM whose state is reset where an episode starts, and layers without memory.

A core maps inputs [T, B, D], `first` [T, B] and a recurrent state to a `CoreOutput`, and declares its state with
`initial_state`: nested tuples of tensors [B, ...]. Everything else (actors, inference, batches, recordings) takes
any such state.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from impala_mi.nn.gated import Highway
from impala_mi.nn.packed import Layer, forget, linear, packs
from impala_mi.types import LSTMState, RecurrentState

StatesBefore = Callable[[Int[Tensor, " F"], Int[Tensor, " F"]], RecurrentState]
"""Function of times [F] and columns [F] to the recurrent states [F, ...] before these steps."""


class CoreOutput(NamedTuple):
    """Output of a core for T steps."""

    output: Float[Tensor, "T B H"]
    state: RecurrentState
    """State after the last step."""
    before: StatesBefore
    """States before steps at which episodes start (and before a single step), not yet reset."""


class Core(Protocol):
    """Contract of a core.

    Acting in bfloat16 converts the weights of a core only if its class sets `low_precision = True`. Such a core
    casts its inputs to the dtype of its weights, and returns outputs and a state with the dtypes that it has in
    float32. A core without the attribute acts in float32.
    """

    def __call__(self, x: Tensor, first: Tensor, state: RecurrentState) -> CoreOutput:
        """Run T steps; the state of column b is reset before every t with first[t, b]."""
        ...

    def initial_state(self, batch: int, like: Tensor) -> RecurrentState:
        """State of `batch` columns at the start of an episode, with the dtype and on the device of `like`."""
        ...


def single_bias_lstm(inputs: int, width: int) -> nn.LSTM:
    """LSTM with one bias, as in TensorFlow: PyTorch's second bias is frozen at zero; forget gates start at 1."""
    lstm = nn.LSTM(inputs, width)
    bias, frozen = lstm.get_parameter("bias_ih_l0"), lstm.get_parameter("bias_hh_l0")
    nn.init.zeros_(frozen.requires_grad_(False))
    with torch.no_grad():
        bias.zero_()[width : 2 * width] = 1.0
    return lstm


def reset(state: LSTMState, first: Bool[Tensor, " B"]) -> LSTMState:
    """State with zeros where an episode starts.

    Filled, not multiplied: 0 x NaN is NaN, so a state that is not finite would outlive its episode.
    """
    starts = first.to(state.cell.device, non_blocking=True).unsqueeze(-1)
    return LSTMState(state.hidden.masked_fill(starts, 0), state.cell.masked_fill(starts, 0))


def lstm_state(batch: int, width: int, like: Tensor) -> LSTMState:
    """Zeros [batch, width] with the dtype and on the device of `like`."""
    zeros = like.new_zeros(batch, width)
    return LSTMState(zeros, zeros.clone())


class LSTMCore(nn.Module):
    """LSTM core: one call of PyTorch's LSTM per stretch without an episode start.

    `first` lies in host memory whatever the device of the weights, because control flow depends on it. With
    `fixed_work`, `first` lies on the device of the weights and every step is computed alike and masked, so that a
    CUDA graph can record the update.
    """

    low_precision = True

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = single_bias_lstm(inputs, width)
        self.fixed_work = False
        """Whether the operations must not depend on `first`."""
        self.packed: Layer | None = None
        self.register_load_state_dict_post_hook(forget)

    def initial_state(self, batch: int, like: Tensor) -> LSTMState:
        """Zeros [batch, H]."""
        return lstm_state(batch, self.lstm.hidden_size, like)

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: LSTMState) -> CoreOutput:
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
            state = LSTMState(hidden.squeeze(0), cell.squeeze(0))
            outputs.append(out)

        def states_before(times: Tensor, columns: Tensor) -> LSTMState:
            states = [before[t] for t in times.tolist()]
            return LSTMState(
                *(
                    torch.stack([rows[column] for rows, column in zip(part, columns.tolist(), strict=True)])
                    for part in zip(*states, strict=True)
                )
            )

        return CoreOutput(outputs[0] if len(outputs) == 1 else torch.cat(outputs), state, states_before)

    def _steps(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: LSTMState) -> CoreOutput:
        """All steps with masked resets; products in the precision of the weights, the state in its own."""
        w_x, w_h, bias, _ = self.lstm.parameters()
        products = F.linear(x.to(w_x.dtype), w_x, bias).to(state.cell.dtype)
        before, outputs = [], []
        for t in range(len(products)):
            before.append(state)
            begin = reset(state, first[t])
            state = lstm_cell(products[t], F.linear(begin.hidden.to(w_h.dtype), w_h), begin.cell)
            outputs.append(state.hidden)

        def states_before(times: Tensor, columns: Tensor) -> LSTMState:
            return LSTMState(*(torch.stack(part)[times, columns] for part in zip(*before, strict=True)))

        return CoreOutput(torch.stack(outputs), state, states_before)

    def _act(self, x: Float[Tensor, "B D"], first: Bool[Tensor, " B"], state: LSTMState) -> CoreOutput:
        """One step with packed weights; the products with input and state are a single one."""
        w_x, w_h, bias, _ = self.lstm.parameters()
        if self.packed is None:
            self.packed = linear(torch.cat([w_x, w_h], 1), bias, len(x))
        begin = reset(state, first) if first.any() else state
        gates = self.packed(torch.cat([x.to(w_x.dtype), begin.hidden.to(w_h.dtype)], 1))
        after = _cell(gates.to(begin.cell.dtype), begin.cell)
        return CoreOutput(
            after.hidden.unsqueeze(0), after, lambda times, columns: LSTMState(*(s[columns] for s in state))
        )


def lstm_cell(
    from_input: Float[Tensor, "B G"], from_hidden: Float[Tensor, "B G"], cell: Float[Tensor, "B H"]
) -> LSTMState:
    """State after a step, from the gates' products with input and state; G = 4 H, in PyTorch's order."""
    from_hidden = from_hidden.to(from_input.dtype)
    if cell.is_cuda:  # one kernel instead of a dozen
        hidden, cell, _ = torch.ops.aten._thnn_fused_lstm_cell(from_input, from_hidden, cell)
        return LSTMState(hidden, cell)
    return _cell(from_input + from_hidden, cell)


def _cell(gates: Float[Tensor, "B G"], cell: Float[Tensor, "B H"]) -> LSTMState:
    i, f, g, o = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return LSTMState(torch.sigmoid(o) * torch.tanh(cell), cell)


class FeedForwardCore(nn.Module):
    """Core without memory: a linear layer with a ReLU in place of the LSTM."""

    low_precision = True

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)

    def initial_state(self, batch: int, like: Tensor) -> tuple[()]:
        """Empty tuple: there is no state."""
        return ()

    def forward(self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], state: tuple[()]) -> CoreOutput:
        """Outputs [T, B, H]."""
        output = self._features(x.to(self.linear.weight.dtype))
        return CoreOutput(output.float() if output.dtype == torch.bfloat16 else output, state, lambda *_: ())

    def _features(self, x: Float[Tensor, "T B D"]) -> Float[Tensor, "T B H"]:
        return torch.relu(self.linear(x))


class HighwayCore(FeedForwardCore):
    """Core without memory: a highway layer behind the linear one, which brings the input to its width."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(inputs, width)
        self.highway = Highway(width, width)

    def _features(self, x: Float[Tensor, "T B D"]) -> Float[Tensor, "T B H"]:
        features = super()._features(x)
        return self.highway(features, features)
