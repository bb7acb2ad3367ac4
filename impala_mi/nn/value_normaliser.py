"""Value normalisers: the relation between a head's value and returns, possibly one per level.

The head outputs a normalised value; V-trace needs values in the units of the returns; the value loss and the
advantages are scaled back. A normaliser is a module of the agent: its statistics are buffers, so checkpoints and
published weights hold them. `Identity` is the only one so far.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class ValueNormaliser(Protocol):
    """Interface of a value normaliser, such as PopArt; levels are None if the agent is not told the task."""

    def denormalise(self, value: Tensor, level: Tensor | None) -> Tensor:
        """Values [...] in the units of returns, of the head's values [...] and levels [...]."""
        ...

    def normalise(self, returns: Tensor, level: Tensor | None) -> Tensor:
        """Targets [...] of the head's values, of returns [...] and levels [...]; inverse of `denormalise`."""
        ...

    def scale(self, advantages: Tensor, level: Tensor | None) -> Tensor:
        """Advantages [...] of returns, scaled for the policy gradient."""
        ...

    def update(self, returns: Tensor, level: Tensor | None, value_output: nn.Module, finite: Tensor) -> None:
        """Learn from the value targets [T, B] of this rank's batch, after its gradient was applied.

        `value_output` is the head's output layer, whose weights may be changed so that denormalised values stay
        the same. If the scalar `finite` is false the update was skipped and everything must stay unchanged. With
        several ranks a normaliser sums its statistics over them itself, so that all ranks stay equal.
        """
        ...


class Identity(nn.Module):
    """Value normaliser that leaves values, returns and advantages as they are."""

    def denormalise(self, value: Tensor, level: Tensor | None) -> Tensor:
        """The value itself."""
        return value

    def normalise(self, returns: Tensor, level: Tensor | None) -> Tensor:
        """The returns themselves."""
        return returns

    def scale(self, advantages: Tensor, level: Tensor | None) -> Tensor:
        """The advantages themselves."""
        return advantages

    def update(self, returns: Tensor, level: Tensor | None, value_output: nn.Module, finite: Tensor) -> None:
        """Nothing to learn."""
