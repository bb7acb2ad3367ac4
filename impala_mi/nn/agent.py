"""The agent: torso, instruction encoder, core and head (paper, appendix E)."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from impala_mi.config import AgentConfig
from impala_mi.errors import UserError, shorten
from impala_mi.hooks import pick
from impala_mi.nn.core import FeedForwardCore, HighwayCore, LSTMCore, StatesBefore
from impala_mi.nn.distributions import ActionEncoder, Distribution, distribution
from impala_mi.nn.instruction import InstructionEncoder
from impala_mi.nn.matching import make_head
from impala_mi.nn.meta import num_parameters, on_meta
from impala_mi.nn.mlstm import MultiplicativeLSTMCore
from impala_mi.nn.torsos import WIDTH, FeatureFilm, make_torso
from impala_mi.nn.value_normaliser import make_normaliser
from impala_mi.types import AgentInput, RecurrentState, Spaces

CORES: dict[str, type[nn.Module]] = {
    "lstm": LSTMCore,
    "mlstm": MultiplicativeLSTMCore,
    "highway": HighwayCore,
    "feedforward": FeedForwardCore,
}
"""Cores by their name in `agent.core`; each is made from the widths of its inputs and of its output."""


class AgentOutput(NamedTuple):
    """Output of the agent for T steps of B columns."""

    logits: Float[Tensor, "T B P"]
    """Parameters of the policy, see `Agent.distribution`."""
    value: Float[Tensor, "T B"]
    """Value in the units of returns."""
    normalised_value: Float[Tensor, "T B"]
    """Value as the head computes it."""
    core: Float[Tensor, "T B H"]
    state: RecurrentState
    before: StatesBefore
    """States before steps, see `CoreOutput.before`."""


class Action(NamedTuple):
    """One step of acting for N environments."""

    action: Tensor
    """[N, *action_shape]."""
    logits: Float[Tensor, "N P"]
    core: Float[Tensor, "N H"]
    state: RecurrentState


class Agent(nn.Module):
    """Network that maps every step of an unroll to a policy and a value.

    Args:
        config: configuration of the agent.
        spaces: spaces of the suite.

    Raises `UserError` if the torso does not suit the frames, if it is conditioned on instructions and there are
    none, or if a head, core or normaliser of that name is not known.
    """

    def __init__(self, config: AgentConfig, spaces: Spaces) -> None:
        super().__init__()
        self.config, self.spaces = config, spaces
        self.torso = make_torso(config.torso, spaces.frame_shape)
        self.torso_film = self._make_film()
        self.instruction = InstructionEncoder() if spaces.instructions else None
        self.last_action = ActionEncoder(spaces.action_space)
        inputs = WIDTH + self.last_action.width + 1 + (InstructionEncoder.width if spaces.instructions else 0)
        self.core = pick(CORES, config.core, "agent.core", type)(inputs, config.core_width)
        normaliser = make_normaliser(config, spaces.num_levels)
        self.head = make_head(config, spaces.action_space.num_params, spaces.num_levels, normaliser.value_per_level)
        self.normaliser = normaliser
        self._check_extra_state()

    def _check_extra_state(self) -> None:
        """Raise `UserError` unless extra states of own modules are tensors that can be loaded again.

        They are published to the actors and saved with the weights; nothing else of them could be read without
        unpickling.
        """
        state = self.state_dict()
        for name in (name for name in state if name.endswith("_extra_state")):
            if not isinstance(state[name], Tensor):
                raise UserError(
                    f"agent: {name.removesuffix('._extra_state')}.get_extra_state returns a "
                    f"{type(state[name]).__name__}; only a tensor is saved; use one, or buffers"
                )
            try:
                self.load_state_dict(state)
            except Exception as e:  # code of the user
                reason = " ".join(str(e).split())
                raise UserError(f"agent: {name} cannot be loaded again: {shorten(reason, 200)}") from None

    def _make_film(self) -> FeatureFilm | None:
        """Conditioning of the torso's features, or None."""
        if self.config.torso_conditioning == "none":
            return None
        if self.config.torso_conditioning == "task":
            return FeatureFilm(self.spaces.num_levels)
        if not self.spaces.instructions:
            raise UserError(
                "agent.torso_conditioning='instruction': the levels of this suite give no instructions; accepted "
                "are task and none"
            )
        return FeatureFilm(InstructionEncoder.width)

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters."""
        return num_parameters(self)

    def initial_state(self, batch: int) -> RecurrentState:
        """Recurrent state [batch, ...] at the start of an episode, as the core declares it."""
        return self.core.initial_state(batch, next(self.head.parameters()))

    def distribution(self, logits: Float[Tensor, "*d P"]) -> Distribution:
        """Distribution over actions, of the policy's parameters."""
        return distribution(self.spaces.action_space, logits)

    def act_in(self, dtype: torch.dtype) -> "Agent":
        """Convert the weights of the torso to `dtype`, and those of a core with `low_precision`.

        For acting only. Returns the agent.
        """
        self.torso.to(dtype)
        if getattr(self.core, "low_precision", False):
            self.core.to(dtype)
        return self

    def forward(self, inputs: AgentInput, state: RecurrentState) -> AgentOutput:
        """Run over inputs [T, B, ...] from the recurrent state before the first of them."""
        first: Bool[Tensor, "T B"] = inputs.first
        features, last_action = self.torso(inputs.frame), self.last_action(inputs.last_action)
        level = None if inputs.level is None else inputs.level.flatten()
        with torch.autocast(inputs.frame.device.type, enabled=False):  # that is for the torso
            words = None if self.instruction is None else self.instruction(inputs.tokens)
            features = self._condition(features, inputs.level, words)
            parts = [features, last_action, inputs.last_reward.clamp(-1, 1).unsqueeze(-1)]
            parts += [] if words is None else [words]
            core = self.core(torch.cat(parts, -1), first, state)
            head = self.head(core.output.flatten(0, 1), level)
            value = self.normaliser.denormalise(head.value, level)
        shape = tuple(first.shape)
        return AgentOutput(
            head.logits.unflatten(0, shape),
            value.unflatten(0, shape),
            head.value.unflatten(0, shape),
            core.output,
            core.state,
            core.before,
        )

    def _condition(
        self, features: Float[Tensor, "T B 256"], level: Tensor | None, words: Tensor | None
    ) -> Float[Tensor, "T B 256"]:
        """Features scaled and shifted as `torso_conditioning` says; ValueError if the level is missing."""
        if self.torso_film is None:
            return features
        if self.config.torso_conditioning == "instruction":
            assert words is not None
            return self.torso_film(features, words)
        if level is None:
            raise ValueError("a torso that is conditioned on the task cannot act without task IDs")
        levels = torch.arange(self.spaces.num_levels, device=level.device)
        return self.torso_film(features, (level.unsqueeze(-1) == levels).to(self.torso_film.G.dtype))

    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Load weights that the learner published."""
        self.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in weights.items()})

    @torch.inference_mode()
    def act(
        self, inputs: AgentInput, state: RecurrentState, generator: torch.Generator, greedy: bool = False
    ) -> Action:
        """Choose an action for each of N environments, sampled or the policy's mode.

        `inputs` are NumPy arrays [N, ...]; `state` and the result are tensors on the agent's device.
        """
        x = AgentInput(*(None if a is None else torch.from_numpy(a).unsqueeze(0) for a in inputs))
        device = next(self.head.parameters()).device
        if device.type != "cpu":
            moved = {
                k: t.to(device) for k, t in x._asdict().items() if k not in ("tokens", "first") and t is not None
            }
            x = x._replace(**moved)
        out = self(x, state)
        logits = out.logits.squeeze(0)
        policy = self.distribution(logits)
        return Action(policy.mode() if greedy else policy.sample(generator), logits, out.core.squeeze(0), out.state)


def meta_agent(config: AgentConfig, spaces: Spaces) -> Agent:
    """Agent on PyTorch's `meta` device: shapes and parameter counts without memory or initialisation.

    Raises `UserError` as `Agent` does.
    """
    with on_meta():
        return Agent(config, spaces)
