"""Heads of equal size: a head as large as another one, so that more weights are no reason for what it achieves.

What is matched is the number of trained parameters of the whole head: policy, value and context. Torso and core are
alike anyway. A head with a context gets another width of it, which for low-rank and hyper heads is also the rank or
the hidden width. A head without a context gets a hidden layer, h -> relu(D h + d), in front of policy and value.
"""

from collections.abc import Callable

from impala_mi.config import AgentConfig
from impala_mi.errors import UserError
from impala_mi.hooks import pick
from impala_mi.nn.heads import HEADS, Head, HeadSpec, head_spec
from impala_mi.nn.meta import num_parameters, on_meta

TOLERANCE = 0.02
"""Largest relative difference of two heads that count as equally large."""


def make_head(config: AgentConfig, num_params: int, num_levels: int, value_per_level: bool) -> Head:
    """Head of the configuration, made as large as the head `match_parameters` if that is set.

    Args as those of `Head`. Raises `UserError` as `Head` does, or if no width gives that number of parameters.
    """
    if config.match_parameters is None:
        return Head(config, num_params, num_levels, value_per_level)
    pick(HEADS, config.match_parameters, "agent.match_parameters", HeadSpec)

    def count(**changes: object) -> int:
        hidden = changes.pop("hidden", None)
        assert hidden is None or isinstance(hidden, int)
        with on_meta():
            head = Head(config.model_copy(update=changes), num_params, num_levels, value_per_level, hidden)
        return num_parameters(head)

    target = count(head=config.match_parameters)
    if config.head == config.match_parameters:
        return Head(config, num_params, num_levels, value_per_level)
    name = "hidden" if head_spec(config).context is None else "context_width"
    width = _closest_width(lambda width: count(**{name: width}), target)
    size = count(**{name: width})
    if abs(size - target) > TOLERANCE * target:
        part = "a hidden layer" if name == "hidden" else "a context"
        raise UserError(
            f"agent.match_parameters={config.match_parameters!r}: that head has {target:,} parameters; the closest "
            f"that agent.head={config.head!r} comes is {size:,}, with {part} of width {width}, which is not within "
            f"{TOLERANCE:.0%}; a larger agent.core_width or agent.context_width has finer steps"
        )
    if name == "hidden":
        return Head(config, num_params, num_levels, value_per_level, width)
    return Head(config.model_copy(update={name: width}), num_params, num_levels, value_per_level)


def _closest_width(count: Callable[[int], int], target: int) -> int:
    """Width of at least 1 whose count, which grows with the width, is closest to the target."""
    above = 1
    while count(above) < target:
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if count(middle) < target else (below, middle)
    return min((width for width in (below, above) if width), key=lambda width: abs(count(width) - target))
