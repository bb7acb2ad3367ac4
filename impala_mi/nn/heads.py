"""Policy and value heads: shared, one per task, and multiplicative (paper, section 6.1)."""

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from impala_mi.config import AgentConfig
from impala_mi.nn.multiplicative import Multiplicative


class HeadOutput(NamedTuple):
    """The policy's logits and the value, for every row."""

    logits: Float[Tensor, "*d A"]
    value: Float[Tensor, "*d"]


class Output(Protocol):
    """One of a head's two outputs: a map from the core's output to [N, k] that may read the task."""

    def __call__(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        """[N, k] from h [N, H], level [N] and context [N, C]."""
        ...


class SharedOutput(nn.Module):
    """A linear layer for all tasks."""

    def __init__(self, width: int, k: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, k)

    def forward(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        """[N, k]."""
        return self.linear(h)


class PerTaskOutput(nn.Module):
    """A linear layer for each task, computed in one product and picked by level."""

    def __init__(self, width: int, k: int, num_levels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_levels * k)
        self.num_levels = num_levels

    def forward(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        """[N, k]; raises ValueError without levels."""
        if level is None:
            raise ValueError("a per_task head has one layer for each task and cannot act without task IDs")
        every = self.linear(h).unflatten(-1, (self.num_levels, -1))
        index = level[:, None, None].expand(-1, 1, every.shape[-1])
        return every.gather(1, index).squeeze(1)


class MultiplicativeOutput(nn.Module):
    """M(h, c)."""

    def __init__(self, width: int, k: int, context_width: int) -> None:
        super().__init__()
        self.layer = Multiplicative(width, context_width, k)

    def forward(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        """[N, k]."""
        assert context is not None
        return self.layer(h, context)


class TaskContext(nn.Module):
    """c = relu(MLP(one-hot of the level)), one hidden layer."""

    def __init__(self, num_levels: int, width: int) -> None:
        super().__init__()
        self.mlp = context_mlp(num_levels, width, norm2=1.0)
        self.register_buffer("one_hot", torch.eye(num_levels), persistent=False)

    def forward(self, h: Tensor, level: Tensor | None) -> Tensor:
        """[N, C]; the K contexts are computed once. Raises ValueError without levels."""
        if level is None:
            raise ValueError("an mi_task head reads its context off the task ID and cannot act without one")
        return self.mlp(self.one_hot)[level]


class LearntContext(nn.Module):
    """c = relu(MLP(h)), one hidden layer."""

    def __init__(self, core_width: int, width: int) -> None:
        super().__init__()
        # An LSTM's outputs start small: a second moment of about 1/40 was measured on ViZDoom's frames.
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


class Head(nn.Module):
    """The policy and the value of a core's output h [N, H].

    `config.head` says how the task enters, `config.conditioned` which of the two outputs it enters; the other is
    a shared linear layer.
    """

    def __init__(self, config: AgentConfig, num_actions: int, num_levels: int) -> None:
        super().__init__()
        self.kind = config.head
        h, c = config.core_width, config.context_width

        def output(k: int, conditioned: bool) -> nn.Module:
            if config.head == "shared" or not conditioned:
                return SharedOutput(h, k)
            if config.head == "per_task":
                return PerTaskOutput(h, k, num_levels)
            return MultiplicativeOutput(h, k, c)

        self.policy = output(num_actions, config.conditioned != "value")
        self.value = output(1, config.conditioned != "policy")
        self._only_value_reads_task = config.head in ("per_task", "mi_task") and config.conditioned == "value"
        self.context: nn.Module | None = None
        if config.head == "mi_task":
            self.context = TaskContext(num_levels, c)
        elif config.head == "mi_context":
            self.context = LearntContext(h, c)

    def forward(self, h: Float[Tensor, "N H"], level: Int[Tensor, " N"] | None) -> HeadOutput:
        """Logits [N, A] and value [N]; raises ValueError where a task ID is needed and missing.

        Out of training, a value that needs a missing task ID is left out (NaN).
        """
        if level is None and not self.training and self._only_value_reads_task:
            logits = self.policy(h, None, None)  # acting needs no value
            return HeadOutput(logits, logits.new_full(logits.shape[:-1], float("nan")))
        context = None if self.context is None else self.context(h, level)
        return HeadOutput(self.policy(h, level, context), self.value(h, level, context).squeeze(-1))

    def vectors(self, h: Float[Tensor, "N H"], level: Int[Tensor, " N"] | None) -> dict[str, Tensor]:
        """What a multiplicative head makes of h: `context` [N, C]; `policy` and `value`, the generated weights.

        Those are W', flattened, [N, k * H]. Empty of other heads.
        """
        if self.context is None:
            return {}
        found = {"context": self.context(h, level)}
        for name, output in (("policy", self.policy), ("value", self.value)):
            if isinstance(output, MultiplicativeOutput):
                found[name] = output.layer.generate(found["context"]).weight.flatten(1)
        return found
