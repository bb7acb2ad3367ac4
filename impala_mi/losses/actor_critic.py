"""Actor-critic loss with V-trace (Espeholt et al. 2018, section 4.2)."""

import torch

from impala_mi.losses.inputs import Loss, LossInputs


def actor_critic_loss(inputs: LossInputs) -> Loss:
    """Policy gradient + value_cost * 1/2 squared error - entropy_cost * entropy, summed (or averaged) over T, B.

    Scalars: `loss/policy`, `loss/value` and `loss/entropy`, unweighted means per step; `learner/rho_mean`, the mean
    clipped pi/mu (1 means on-policy); `learner/policy_kl`, the divergence of the learner's policy from the
    behaviour policy in nats.
    """
    config, targets, normaliser, level = inputs.config, inputs.targets, inputs.normaliser, inputs.level
    advantages = normaliser.scale(targets.advantages, level)
    value_targets = normaliser.normalise(targets.vs, inputs.normalised_values, level)
    policy = inputs.reduce(-inputs.log_pi * advantages)
    value = inputs.reduce(0.5 * (value_targets - inputs.normalised_values).square())
    entropy = inputs.reduce(inputs.policy.entropy())
    total = policy + config.value_cost * value - config.entropy_cost * entropy
    with torch.no_grad():
        scalars = {
            "loss/policy": inputs.per_step(policy),
            "loss/value": inputs.per_step(value),
            "loss/entropy": inputs.per_step(entropy),
            "learner/rho_mean": inputs.log_rhos.exp().clamp(max=config.rho_clip).mean(),
            "learner/policy_kl": inputs.behaviour.kl(inputs.policy).mean(),
        }
    return Loss(total, {name: scalar.detach() for name, scalar in scalars.items()})
