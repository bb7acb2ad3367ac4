"""Appendix D's three models of T tasks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from impala_mi.nn.multiplicative import Multiplicative


class ConditionalMLP(nn.Module):
    """concat(x, linear(20)(z)), linear(30), relu, linear(20), relu, linear(1), for one-hot z."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.context = nn.Linear(tasks, 20)
        self.first, self.second, self.last = nn.Linear(21, 30), nn.Linear(30, 20), nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [T, B] for samples x [T, B] of every task."""
        of_x, of_context = self.first.weight[:, :1], self.first.weight[:, 1:]
        shift = of_context @ contexts(self.context).T + self.first.bias.unsqueeze(-1)  # [30, T]
        h = torch.relu_((of_x @ x.reshape(1, -1)).unflatten(1, x.shape) + shift.unsqueeze(-1))
        h = torch.relu_(self.second.weight @ h.flatten(1) + self.second.bias.unsqueeze(-1))
        return (self.last.weight @ h).view(x.shape) + self.last.bias


class ConditionalMI(nn.Module):
    """MI([linear(30), relu, linear(20), relu](x), linear(20)(z)), for one-hot z."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.context = nn.Linear(tasks, 20)
        self.first, self.second = nn.Linear(1, 30), nn.Linear(30, 20)
        self.output = Multiplicative(20, 20, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [T, B] for samples x [T, B] of every task."""
        h = trunk(x, self.first, self.second)
        weight, bias = self.output.generate(contexts(self.context))  # [T, 1, 20], [T, 1]
        return per_task(h, weight.squeeze(1), bias)


class Multiheaded(nn.Module):
    """linear(20), relu, linear(30), relu, and one linear(1) per task."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 20), nn.Linear(20, 30)
        self.heads = nn.Linear(30, tasks)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [T, B] for samples x [T, B] of every task."""
        return per_task(trunk(x, self.first, self.second), self.heads.weight, self.heads.bias.unsqueeze(-1))


def contexts(layer: nn.Linear) -> Tensor:
    """Outputs [T, width] of a layer for each one-hot input of T."""
    return layer.weight.T + layer.bias


def trunk(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """Hidden units [width, T, B] of two layers with rectifiers for x [T, B]."""
    both = torch.cat([first.weight, first.bias.unsqueeze(-1)], 1)
    h = torch.relu_(both @ torch.stack([x.reshape(-1), torch.ones_like(x).reshape(-1)]))
    return torch.relu_(second.weight @ h + second.bias.unsqueeze(-1)).unflatten(1, x.shape)


def per_task(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One output [T, B] of hidden units [width, T, B] by each task's weights [T, width] and bias [T, 1]."""
    return (h * weight.T.unsqueeze(-1)).sum(0) + bias


OURS = "conditional MI"
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "conditional MLP": ConditionalMLP,
    "multiheaded MLP": Multiheaded,
    OURS: ConditionalMI,
}
"""Models of T tasks; the multiplicative one is last."""
BASELINES = tuple(model for model in MODELS if model != OURS)
