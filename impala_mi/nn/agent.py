"""The agent: torso, instruction encoder, core and head (paper, appendix E)."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from impala_mi.config import AgentConfig
from impala_mi.nn.core import Before, FeedForwardCore, HighwayCore, LSTMCore
from impala_mi.nn.heads import Head
from impala_mi.nn.instruction import InstructionEncoder
from impala_mi.nn.mlstm import MultiplicativeLSTMCore
from impala_mi.nn.torsos import WIDTH, make_torso
from impala_mi.types import AgentInput, CoreState, Spaces

CORES = {"lstm": LSTMCore, "mlstm": MultiplicativeLSTMCore, "highway": HighwayCore, "feedforward": FeedForwardCore}


class AgentOutput(NamedTuple):
    """What the agent makes of T steps of B columns."""

    logits: Float[Tensor, "T B A"]
    value: Float[Tensor, "T B"]
    core: Float[Tensor, "T B H"]
    state: CoreState
    before: Before
    """See `CoreOutput.before`."""


class Action(NamedTuple):
    """One step of acting for N environments."""

    action: Int[Tensor, " N"]
    logits: Float[Tensor, "N A"]
    core: Float[Tensor, "N H"]
    state: CoreState


class Agent(nn.Module):
    """A policy and a value for every step of an unroll."""

    one_hot: Tensor

    def __init__(self, config: AgentConfig, spaces: Spaces) -> None:
        super().__init__()
        self.config, self.spaces = config, spaces
        self.torso = make_torso(config.torso, spaces.frame_shape)
        self.instruction = InstructionEncoder() if spaces.instructions else None
        inputs = WIDTH + spaces.num_actions + 1 + (InstructionEncoder.width if spaces.instructions else 0)
        self.core = CORES[config.core](inputs, config.core_width)
        self.head = Head(config, spaces.num_actions, spaces.num_levels)
        # The last row, which NO_ACTION (-1) picks, is zeros.
        self.register_buffer("one_hot", torch.eye(spaces.num_actions + 1, spaces.num_actions), persistent=False)

    @property
    def num_parameters(self) -> int:
        """Trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def initial_state(self, batch: int) -> CoreState:
        """Zeros [batch, H]."""
        zeros = next(self.head.parameters()).new_zeros(batch, self.config.core_width)
        return CoreState(zeros, zeros.clone())

    def act_in(self, dtype: torch.dtype) -> "Agent":
        """Keep the weights of the torso and the core in `dtype`; for acting alone."""
        self.torso.to(dtype)
        self.core.to(dtype)
        return self

    def forward(self, inputs: AgentInput, state: CoreState) -> AgentOutput:
        """Run over [T, B, ...] inputs from the state before the first of them."""
        first: Bool[Tensor, "T B"] = inputs.first
        steps, batch = first.shape
        parts = [
            self.torso(inputs.frame),
            self.one_hot[inputs.last_action],
            inputs.last_reward.clamp(-1, 1).unsqueeze(-1),
        ]
        level = None if inputs.level is None else inputs.level.flatten()
        with torch.autocast(inputs.frame.device.type, enabled=False):  # that is for the torso
            if self.instruction is not None:
                parts.append(self.instruction(inputs.tokens))
            core = self.core(torch.cat(parts, -1), first, state)
            head = self.head(core.output.flatten(0, 1), level)
        return AgentOutput(
            head.logits.unflatten(0, (steps, batch)),
            head.value.unflatten(0, (steps, batch)),
            core.output,
            core.state,
            core.before,
        )

    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Take these, which the learner published."""
        self.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in weights.items()})

    @torch.inference_mode()
    def act(self, inputs: AgentInput, state: CoreState, generator: torch.Generator) -> Action:
        """Sample one action for each of N environments; `inputs` are [N, ...] NumPy arrays."""
        x = AgentInput(*(None if a is None else torch.from_numpy(a).unsqueeze(0) for a in inputs))
        device = state.cell.device
        if device.type != "cpu":
            there = {
                k: t.to(device) for k, t in x._asdict().items() if k not in ("tokens", "first") and t is not None
            }
            x = x._replace(**there)
        out = self(x, state)
        logits = out.logits.squeeze(0)
        # Gumbel's trick: the arg max of logits plus this noise is a sample of the softmax.
        noise = torch.empty_like(logits).exponential_(generator=generator).log_()
        return Action((logits - noise).argmax(-1), logits, out.core.squeeze(0), out.state)
