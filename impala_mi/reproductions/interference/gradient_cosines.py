"""Interference between levels, measured as the cosine of their gradients."""

import torch
from torch import Tensor

from impala_mi.learner.data_parallel import split
from impala_mi.learner.update import Learner
from impala_mi.types import Transitions

Cosines = dict[str, tuple[float, float]]
"""By part of the agent: mean cosine between unrolls of one level, and between unrolls of different levels."""


def gradient_cosines(learner: Learner, batch: Transitions) -> Cosines:
    """Cosines between the gradients of single unrolls, by part of the agent; nothing is learnt.

    Unrolls of one level differ by chance alone, so their cosine is the most that levels without interference
    could reach; a negative cosine between levels means that what helps one harms the other.

    Args:
        learner: learner on the CPU.
        batch: batch [T+1, B, ...] whose columns play one level each, with two columns or more of some level.
    """
    agent = learner.agent
    parts = {"torso": agent.torso, "core": agent.core, "policy": agent.head.policy, "value": agent.head.value}
    levels = batch.inputs.level[0]
    gradients: dict[str, list[Tensor]] = {name: [] for name in parts}
    for unroll in split(batch, batch.action.shape[1]):
        learner.optimizer.zero_grad()
        loss, _ = learner.loss(unroll)
        loss.total.backward()
        for name, module in parts.items():
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
            gradients[name].append(torch.cat([grad.flatten() for grad in grads]))
    learner.optimizer.zero_grad()
    same = levels[:, None] == levels[None, :]
    different, same = ~same, same & ~torch.eye(len(levels), dtype=torch.bool)
    result = {}
    for name, rows in gradients.items():
        unit = torch.nn.functional.normalize(torch.stack(rows), dim=1)
        cosine = unit @ unit.T
        result[name] = float(cosine[same].mean()), float(cosine[different].mean())
    return result
