"""Value normalisers: the relation between a head's value and returns, possibly one per level.

The head outputs a normalised value; V-trace needs values in the units of the returns; the value loss and the
advantages are scaled back. A normaliser is a module of the agent: its statistics are buffers, so checkpoints and
published weights hold them. `NORMALISERS` is the registry; `agent.value_normaliser` names an entry.

PopArt (van Hasselt et al. 2016; for many tasks Hessel et al. 2019) keeps a mean mu_k and a scale sigma_k of the
returns of each level. The head outputs one value n_k per level, and V_k = sigma_k n_k + mu_k. When the statistics
move to mu'_k and sigma'_k, V_k stays the same for every input if n_k becomes

    n'_k = s_k n_k + t_k,    s_k = sigma_k / sigma'_k,    t_k = (mu_k - mu'_k) / sigma'_k.

Every output layer applies a row to the core's output h, n_k = w_k(z) h + b_k(z), where row and bias are constant or
generated from a context z. Both are linear in parameters that belong to output k alone, so multiplying these by s_k
and adding t_k to the constant part of the bias multiplies the generated row, whatever z and h are:

    layer            w_k(z)                        b_k(z)                  parameters of output k
    linear           w_k                           b_k                     w_k, b_k
    concatenation    w_k                           u_k z + b_k             w_k, u_k, b_k
    multiplicative   z^T W_k + v_k                 z^T u_k + b_k           W_k, u_k, v_k, b_k
    low rank         P diag(Q^T z) r_k + v_k       z^T u_k + b_k           r_k, u_k, v_k, b_k
    FiLM             a_k * gamma(z)                a_k beta(z) + b_k       a_k, b_k
    hypernetwork     A_k g(z) + v_k                c_k g(z) + b_k          A_k, v_k, c_k, b_k

As in Hessel et al. each level moves its own row, in normalised units. One output for all
levels with a factor and a shift for each, n_k = a_k y + c_k, would preserve values too, but not train like that.
With constants, a_k sigma_k never changes: V_k = y for ever, and the layer must output unnormalised returns. With
trained factors, all levels share one row up to its length, and a level with a_k = 1/1000 barely moves it.

The value reads the level for its row even where the head is not told the task: only the learner, which knows the
level, needs values, and the policy stays untold (as in Hessel et al.). `agent.head=per_task` with
`agent.conditioned=value` is the network of that paper.
"""

import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from impala_mi.config import AgentConfig
from impala_mi.errors import UserError
from impala_mi.hooks import pick

MIN_SCALE, MAX_SCALE = 1e-4, 1e6
"""Bounds of PopArt's sigma, in units of returns (Hessel et al. 2019)."""


@runtime_checkable
class ValueNormaliser(Protocol):
    """Interface of a value normaliser; levels are None where the agent acts without being told the task."""

    value_per_level: bool
    """Whether the head outputs one value for each level, of which the level selects one."""

    def denormalise(self, value: Tensor, level: Tensor | None) -> Tensor:
        """Values [...] in the units of returns, of the head's values [...] and levels [...]."""
        ...

    def normalise(self, returns: Tensor, value: Tensor, level: Tensor) -> Tensor:
        """Targets [...] of the head's values [...], of returns [...] and levels [...]."""
        ...

    def scale(self, advantages: Tensor, level: Tensor) -> Tensor:
        """Advantages [...] of returns, scaled for the policy gradient."""
        ...

    def statistics(self, returns: Tensor, level: Tensor) -> Tensor:
        """Sums, of any shape, from which `update` learns; of the value targets [T, B] of this rank's batch.

        The learner adds them up over its ranks before it changes a weight, so that ranks stay equal.
        """
        ...

    def update(self, statistics: Tensor, value_output: nn.Module, finite: Tensor) -> None:
        """Learn from the statistics of a batch, after its gradient was applied.

        `value_output` is the head's output layer, whose weights may be changed so that denormalised values stay
        the same. If the scalar `finite` is false the update was skipped and everything must stay unchanged.
        """
        ...

    def metrics(self) -> dict[str, Tensor]:
        """Scalars for the records of training, by name."""
        ...


class Identity(nn.Module):
    """Value normaliser that leaves values, returns and advantages as they are."""

    value_per_level = False

    def __init__(self, config: AgentConfig | None = None, num_levels: int = 0) -> None:
        super().__init__()

    def denormalise(self, value: Tensor, level: Tensor | None) -> Tensor:
        """The value itself."""
        return value

    def normalise(self, returns: Tensor, value: Tensor, level: Tensor) -> Tensor:
        """The returns themselves."""
        return returns

    def scale(self, advantages: Tensor, level: Tensor) -> Tensor:
        """The advantages themselves."""
        return advantages

    def statistics(self, returns: Tensor, level: Tensor) -> Tensor:
        """Empty."""
        return returns.new_zeros(0)

    def update(self, statistics: Tensor, value_output: nn.Module, finite: Tensor) -> None:
        """Nothing to learn."""

    def metrics(self) -> dict[str, Tensor]:
        """Empty dict."""
        return {}


class PopArt(nn.Module):
    """Value normaliser with a mean and a scale of each level's returns, which preserves values as they move.

    A return moves its level's mean and second moment by `beta` towards itself and its square. A batch with n
    returns of a level moves them by 1 - (1 - beta)^n towards their means over the batch, which is the same up to
    the order of returns, and does not depend on how ranks share the batch. Statistics start at mean 0 and sigma 1,
    which they forget within about 1 / beta returns.

    An update uses the statistics of the batches before it: the gradient is applied first, then the statistics move.
    (Algorithm 1 of van Hasselt et al. moves them first; values are preserved in both.) The first batch of a level
    therefore only moves them: it has neither a policy nor a value gradient, which would be as large as the returns.

    Args:
        config: configuration of the agent; `popart_beta` is the step size per return.
        num_levels: K.
    """

    value_per_level = True
    mean: Tensor
    """mu [K], in units of returns."""
    second_moment: Tensor
    """nu [K]; sigma^2 = nu - mu^2."""
    seen: Tensor
    """1 where a level [K] had returns, else 0."""

    def __init__(self, config: AgentConfig, num_levels: int) -> None:
        super().__init__()
        self.beta = config.popart_beta
        # In float64, because nu - mu^2 cancels.
        self.register_buffer("mean", torch.zeros(num_levels, dtype=torch.float64))
        self.register_buffer("second_moment", torch.ones(num_levels, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(num_levels))

    @property
    def sigma(self) -> Tensor:
        """Scale [K] of each level's returns, within `MIN_SCALE` and `MAX_SCALE`."""
        return (self.second_moment - self.mean.square()).clamp(MIN_SCALE**2, MAX_SCALE**2).sqrt()

    def denormalise(self, value: Tensor, level: Tensor | None) -> Tensor:
        """Value sigma_k n + mu_k [...]; NaN without levels."""
        if level is None:
            return torch.full_like(value, float("nan"))
        return value * self.sigma.to(value.dtype)[level] + self.mean.to(value.dtype)[level]

    def normalise(self, returns: Tensor, value: Tensor, level: Tensor) -> Tensor:
        """Targets (G - mu_k) / sigma_k [...]; a level's own values until it has statistics."""
        targets = (returns - self.mean.to(returns.dtype)[level]) / self.sigma.to(returns.dtype)[level]
        return torch.where(self.seen[level] > 0, targets, value.detach())

    def scale(self, advantages: Tensor, level: Tensor) -> Tensor:
        """Advantages over sigma_k [...]; 0 until a level has statistics."""
        return advantages * (self.seen / self.sigma).to(advantages.dtype)[level]

    @torch.no_grad()
    def statistics(self, returns: Tensor, level: Tensor) -> Tensor:
        """Number, sum and sum of squares of each level's returns [3, K], float64."""
        returns, level = returns.flatten().double(), level.flatten()
        # A product with a mask has a fixed order of addition, unlike a scatter on a GPU.
        mask = (level[:, None] == torch.arange(len(self.mean), device=level.device)).to(returns.dtype)
        return torch.stack([torch.ones_like(returns), returns, returns.square()]) @ mask

    @torch.no_grad()
    def update(self, statistics: Tensor, value_output: nn.Module, finite: Tensor) -> None:
        """Move the statistics, and rescale the output layer so that values stay the same."""
        count, first, second = statistics
        step = -torch.expm1(count * math.log1p(-self.beta))
        mean = self.mean + step * (first / count.clamp(min=1) - self.mean)
        square = self.second_moment + step * (second / count.clamp(min=1) - self.second_moment)
        old_mean, old_sigma = self.mean.clone(), self.sigma
        self.mean.copy_(mean.where(finite, self.mean))
        self.second_moment.copy_(square.where(finite, self.second_moment))
        self.seen.masked_fill_((count > 0) & finite, 1)
        sigma = self.sigma
        rescale: Any = value_output.rescale
        dtype = next(value_output.parameters()).dtype
        rescale((old_sigma / sigma).to(dtype), ((old_mean - self.mean) / sigma).to(dtype))

    def metrics(self) -> dict[str, Tensor]:
        """Mean and largest sigma of the levels that had returns; 0 before the first."""
        sigma = self.sigma * self.seen
        mean = sigma.sum() / self.seen.sum().clamp(min=1)
        return {"learner/value_scale": mean.float(), "learner/value_scale_max": sigma.max().float()}


NORMALISERS: dict[str, type[Any]] = {"none": Identity, "popart": PopArt}
"""Value normalisers by their name in `agent.value_normaliser`; each is made from the configuration of the agent and
the number of levels."""


def make_normaliser(config: AgentConfig, num_levels: int) -> ValueNormaliser:
    """The configured value normaliser; raises `UserError` if there is none of that name or it is something else."""
    normaliser = pick(NORMALISERS, config.value_normaliser, "agent.value_normaliser", type)(config, num_levels)
    if not isinstance(normaliser, ValueNormaliser):
        raise UserError(
            f"agent.value_normaliser={config.value_normaliser!r}: {type(normaliser).__name__} is no "
            "impala_mi.nn.value_normaliser.ValueNormaliser, which has value_per_level, denormalise, normalise, "
            "scale, statistics, update and metrics"
        )
    return normaliser
