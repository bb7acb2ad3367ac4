"""Losses: pure functions of tensors. `LOSSES` is the registry; the learner minimises the sum of its entries."""

from impala_mi.losses.actor_critic import actor_critic_loss
from impala_mi.losses.inputs import Loss, LossFunction, LossInputs, loss_inputs

__all__ = ["LOSSES", "Loss", "LossFunction", "LossInputs", "actor_critic_loss", "loss_inputs", "total_loss"]

LOSSES: dict[str, LossFunction] = {"actor_critic": actor_critic_loss}
"""Terms of the loss by name; each is computed from the same `LossInputs`."""


def total_loss(inputs: LossInputs) -> Loss:
    """Sum of all terms of `LOSSES`, their scalars together, and `loss/total`."""
    terms = [loss(inputs) for loss in LOSSES.values()]
    total = terms[0].total
    for term in terms[1:]:
        total = total + term.total
    scalars = {"loss/total": inputs.per_step(total.detach())}
    for term in terms:
        scalars |= term.scalars
    return Loss(total, scalars)
