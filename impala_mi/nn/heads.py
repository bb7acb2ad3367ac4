"""Policy and value heads: shared, one per task, multiplicative (paper, section 6.1) and what they compete with.

`HEADS` is the registry. A head says how the task enters: an output layer for each of policy and value, and a
context z that the output layers may read. `agent.head` names an entry, or a `HeadSpec` of your own as
`package.module:name`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from impala_mi.config import AgentConfig
from impala_mi.errors import UserError
from impala_mi.hooks import pick
from impala_mi.nn.multiplicative import (
    Additive,
    DeepHyperNetwork,
    Film,
    Generated,
    LowRank,
    Multiplicative,
    rescale_linear,
)


class HeadOutput(NamedTuple):
    """Policy parameters and (normalised) value of every row."""

    logits: Float[Tensor, "*d P"]
    value: Float[Tensor, "*d"]


@dataclass(frozen=True)
class HeadSpec:
    """Parts and properties of a kind of head."""

    output: Callable[[AgentConfig, int, int], nn.Module]
    """Makes an output layer from the configuration, its width k and the number of levels. It maps the core's output
    [N, H], level [N] or None and context [N, C] or None to [N, k]. PopArt also needs
    `rescale(scale [k], shift [k])`, which turns outputs y into scale * y + shift for every input."""
    context: Callable[[AgentConfig, int], nn.Module] | None = None
    """Makes the context from the configuration and the number of levels, if the head has one. It maps the core's
    output [N, H] and level [N] or None to z [N, C]."""
    needs_task: bool = False
    """Whether the conditioned outputs need the task ID."""
    generates_weights: bool = False
    """Whether the context generates weights: the output layer is a `ContextOutput` whose W' depends on z."""
    selects_level: bool = False
    """Whether the output layer has outputs for each level, of which it returns those of the row's level."""


class SharedOutput(nn.Module):
    """Linear layer for all tasks."""

    def __init__(self, width: int, k: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, k)

    def forward(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        """[N, k]."""
        return self.linear(h)

    def rescale(self, scale: Float[Tensor, " k"], shift: Float[Tensor, " k"]) -> None:
        """Outputs become scale * y + shift."""
        rescale_linear(self.linear, scale, shift)


class PerTaskOutput(nn.Module):
    """Linear layer per task; all are computed in one product, and the level selects one."""

    def __init__(self, width: int, k: int, num_levels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_levels * k)
        self.num_levels = num_levels

    def forward(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        """[N, k]; raises ValueError without levels."""
        if level is None:
            raise ValueError("a per_task head has one layer for each task and cannot act without task IDs")
        outputs = self.linear(h).unflatten(-1, (self.num_levels, -1))
        index = level[:, None, None].expand(-1, 1, outputs.shape[-1])
        return outputs.gather(1, index).squeeze(1)

    def rescale(self, scale: Float[Tensor, " rows"], shift: Float[Tensor, " rows"]) -> None:
        """Outputs become scale * y + shift; rows = K * k, the k outputs of level 0 first."""
        rescale_linear(self.linear, scale, shift)


class ContextOutput(nn.Module):
    """Layer of two streams applied to the core's output and the context: y = W'(z) h + b'(z)."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        """[N, k]."""
        assert context is not None
        return self.layer(h, context)

    def rescale(self, scale: Float[Tensor, " k"], shift: Float[Tensor, " k"]) -> None:
        """Outputs become scale * y + shift, as the layer does it."""
        self.layer.rescale(scale, shift)


class TaskContext(nn.Module):
    """Context of the task ID: z = relu(MLP(one-hot of the level)), one hidden layer."""

    def __init__(self, num_levels: int, width: int) -> None:
        super().__init__()
        self.mlp = context_mlp(num_levels, width, norm2=1.0)
        one_hot = torch.eye(num_levels, device="cpu")  # on the meta device it loads a compiler
        self.register_buffer("one_hot", one_hot, persistent=False)

    def forward(self, h: Tensor, level: Tensor | None) -> Tensor:
        """[N, C]; the K contexts are computed once. Raises ValueError without levels."""
        if level is None:
            raise ValueError("this head computes its context from the task ID and cannot act without one")
        return self.mlp(self.one_hot)[level]


class LearntContext(nn.Module):
    """Context learnt from the core's output: z = relu(MLP(h)), one hidden layer."""

    def __init__(self, core_width: int, width: int) -> None:
        super().__init__()
        # An LSTM's outputs start small: their second moment was measured as about 1/40 on ViZDoom's frames.
        self.mlp = context_mlp(core_width, width, norm2=core_width / 40)

    def forward(self, h: Tensor, level: Tensor | None) -> Tensor:
        """[N, C]."""
        return self.mlp(h)


def context_mlp(inputs: int, width: int, norm2: float) -> nn.Sequential:
    """relu(linear(relu(linear(.)))) whose units have a second moment of 1 for inputs of squared norm `norm2`."""
    first, second = nn.Linear(inputs, width), nn.Linear(width, width)
    nn.init.normal_(first.weight, std=(2 / norm2) ** 0.5)
    nn.init.normal_(second.weight, std=(2 / width) ** 0.5)
    nn.init.zeros_(first.bias)
    nn.init.zeros_(second.bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def _shared(config: AgentConfig, k: int, num_levels: int) -> nn.Module:
    return SharedOutput(config.core_width, k)


def _per_task(config: AgentConfig, k: int, num_levels: int) -> nn.Module:
    return PerTaskOutput(config.core_width, k, num_levels)


def _multiplicative(config: AgentConfig, k: int, num_levels: int) -> nn.Module:
    return ContextOutput(Multiplicative(config.core_width, config.context_width, k))


def _concatenated(config: AgentConfig, k: int, num_levels: int) -> nn.Module:
    return ContextOutput(Additive(config.core_width, config.context_width, k))


def _film(config: AgentConfig, k: int, num_levels: int) -> nn.Module:
    return ContextOutput(Film(config.core_width, config.context_width, k))


def _low_rank(config: AgentConfig, k: int, num_levels: int) -> nn.Module:
    width = config.context_width
    return ContextOutput(LowRank(config.core_width, width, k, rank=width))


def _hyper(config: AgentConfig, k: int, num_levels: int) -> nn.Module:
    width = config.context_width
    return ContextOutput(DeepHyperNetwork(config.core_width, width, k, hidden=width))


def _task_context(config: AgentConfig, num_levels: int) -> nn.Module:
    return TaskContext(num_levels, config.context_width)


def _learnt_context(config: AgentConfig, num_levels: int) -> nn.Module:
    return LearntContext(config.core_width, config.context_width)


HEADS = {
    "shared": HeadSpec(_shared),
    "per_task": HeadSpec(_per_task, needs_task=True, selects_level=True),
    "concat": HeadSpec(_concatenated, _task_context, needs_task=True),
    "mi_task": HeadSpec(_multiplicative, _task_context, needs_task=True, generates_weights=True),
    "mi_context": HeadSpec(_multiplicative, _learnt_context, generates_weights=True),
    "concat_context": HeadSpec(_concatenated, _learnt_context),
    "film_task": HeadSpec(_film, _task_context, needs_task=True, generates_weights=True),
    "film_context": HeadSpec(_film, _learnt_context, generates_weights=True),
    "low_rank_task": HeadSpec(_low_rank, _task_context, needs_task=True, generates_weights=True),
    "low_rank_context": HeadSpec(_low_rank, _learnt_context, generates_weights=True),
    "hyper_task": HeadSpec(_hyper, _task_context, needs_task=True, generates_weights=True),
    "hyper_context": HeadSpec(_hyper, _learnt_context, generates_weights=True),
}
"""Heads by their name in `agent.head`.

`_task` heads compute the context from the task ID, `_context` heads from the core's output. The layers are those of
`nn.multiplicative`: `mi` the full form, `concat` its opposite, which only adds; `film`, `low_rank` and `hyper` are
between or beyond, with `context_width` also the rank and the hidden width of the hypernetwork.
"""


def head_spec(config: AgentConfig) -> HeadSpec:
    """The configured kind of head; raises `UserError` if there is none of that name."""
    return pick(HEADS, config.head, "agent.head", HeadSpec)


def task_settings(config: AgentConfig) -> str | None:
    """Settings by which the policy is computed from the task ID, or None if the agent can act without it."""
    settings = []
    if head_spec(config).needs_task and config.conditioned != "value":
        settings.append(f"agent.head={config.head!r} with agent.conditioned={config.conditioned!r}")
    if config.torso_conditioning == "task":
        settings.append("agent.torso_conditioning='task'")
    return " and ".join(settings) or None


class Head(nn.Module):
    """Policy and value of the core's output h [N, H].

    `config.head` names the kind, `config.conditioned` the outputs that the task conditions; the other output is a
    shared linear layer.

    Args:
        config: configuration of the agent.
        num_params: P, the policy's parameters.
        num_levels: K.
        value_per_level: whether the value layer has one output for each level, of which the level selects one, as a
            value normaliser with statistics per level needs.
        hidden: width of a hidden layer between the core and policy and value; none by default.

    Raises `UserError` if `value_per_level` is set and the value layer has no `rescale`.
    """

    def __init__(
        self,
        config: AgentConfig,
        num_params: int,
        num_levels: int,
        value_per_level: bool = False,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.spec, self.hidden = config, head_spec(config), None
        if hidden is not None:
            linear = nn.Linear(config.core_width, hidden)
            nn.init.normal_(linear.weight, std=(2 / config.core_width) ** 0.5)  # keeps the second moment
            nn.init.zeros_(linear.bias)
            self.hidden = nn.Sequential(linear, nn.ReLU())
            config = config.model_copy(update={"core_width": hidden})

        def output(k: int, conditioned: bool) -> nn.Module:
            make = self.spec.output if conditioned else _shared
            return make(config, k, num_levels)

        self.policy = output(num_params, config.conditioned != "value")
        value_conditioned = config.conditioned != "policy"
        self._selects_value = value_per_level and not (self.spec.selects_level and value_conditioned)
        self.value = output(num_levels if self._selects_value else 1, value_conditioned)
        if value_per_level and not hasattr(self.value, "rescale"):
            raise UserError(
                f"agent.value_normaliser={config.value_normaliser!r} needs an output layer with rescale(scale, "
                f"shift); agent.head={config.head!r} has {type(self.value).__name__} without it"
            )
        self._only_value_reads_task = not task_settings(config) and (self.spec.needs_task or value_per_level)
        self.context = None if self.spec.context is None else self.spec.context(config, num_levels)

    def forward(self, h: Float[Tensor, "N H"], level: Int[Tensor, " N"] | None) -> HeadOutput:
        """Policy parameters [N, P] and value [N]; raises ValueError if a needed task ID is missing.

        In evaluation mode a value that needs a missing task ID is NaN.
        """
        h = h if self.hidden is None else self.hidden(h)
        acts_untold = level is None and not self.training and self._only_value_reads_task  # acting needs no value
        context = None if self.context is None or (acts_untold and self.spec.needs_task) else self.context(h, level)
        if acts_untold:
            logits = self.policy(h, None, context)
            return HeadOutput(logits, logits.new_full(logits.shape[:-1], float("nan")))
        return HeadOutput(self.policy(h, level, context), self._value(h, level, context))

    def _value(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        values = self.value(h, level, context)
        if not self._selects_value:
            return values.squeeze(-1)
        if level is None:
            raise ValueError("values with statistics per level need the level")
        return values.gather(1, level[:, None]).squeeze(1)

    def vectors(self, h: Float[Tensor, "N H"], level: Int[Tensor, " N"] | None) -> dict[str, Tensor]:
        """Context [N, C] and generated weights `policy` and `value` (W', flattened, [N, k * H]) of each row.

        Empty for a head without generated weights.
        """
        if self.context is None or not self.spec.generates_weights:
            return {}
        h = h if self.hidden is None else self.hidden(h)
        vectors = {"context": self.context(h, level)}
        for name, output in (("policy", self.policy), ("value", self.value)):
            if isinstance(output, ContextOutput):
                generated: Generated = output.layer.generate(vectors["context"])
                weight = generated.weight
                if name == "value" and self._selects_value:
                    assert level is not None
                    weight = weight[torch.arange(len(level), device=level.device), level]
                vectors[name] = weight.flatten(1)
        return vectors
