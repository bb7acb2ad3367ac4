"""Many small networks trained at once, as one stack of parameters under `torch.func.vmap`."""

import copy
import math
import zlib
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from impala_mi.host.threads import keep_freed_memory
from impala_mi.nn.precision import compute_with

N = TypeVar("N", bound=nn.Module)


def seed_of(*parts: object) -> int:
    """32-bit seed that depends on all arguments."""
    return zlib.crc32(repr(parts).encode())


def make_seeded(seed: int, make: Callable[[], N]) -> N:
    """Make a network whose initial weights depend on the seed alone; the global generator stays unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def prepare_process() -> None:
    """Tune the process for stacks of a few MB: keep freed memory, and use one thread, which is fastest."""
    keep_freed_memory()
    compute_with(1)


def stack_parameters(networks: Sequence[nn.Module], device: torch.device) -> dict[str, Tensor]:
    """Stack the parameters of N networks of one kind, [N, ...] by name; smaller ones are padded with zeros.

    A hidden unit whose incoming and outgoing weights are zero gets zero gradients, in linear layers with or without
    a rectifier and in the multiplicative family; so does an output that is zero where the target is zero. Adam
    leaves both at zero, so a padded network trains as the small network would.
    """
    stacks = {}
    for name, first in networks[0].named_parameters():
        parameters = [dict(network.named_parameters())[name].detach() for network in networks]
        shape = [max(lengths) for lengths in zip(*(p.shape for p in parameters), strict=True)]
        stack = first.new_zeros(len(parameters), *shape)
        for row, p in zip(stack, parameters, strict=True):
            row[tuple(slice(length) for length in p.shape)] = p
        stacks[name] = stack.to(device).requires_grad_()
    return stacks


class NetworkStack(Generic[N]):
    """N networks, each with its own learning rate of Adam.

    Args:
        networks: networks of one kind; one of them must have the largest shape of every parameter.
        rates: [N] learning rates; networks with the same rate are neighbours.
        shared: whether all networks see the same inputs, which then have no axis N.
        device: device to train on.
        clip: largest absolute value of a gradient's element.
    """

    def __init__(
        self,
        networks: Sequence[N],
        rates: Sequence[float],
        shared: bool,
        device: torch.device,
        clip: float = math.inf,
    ) -> None:
        self._shared, self._clip = shared, clip
        self.parameters = stack_parameters(networks, device)
        shapes = {name: stack.shape[1:] for name, stack in self.parameters.items()}
        largest = next(n for n in networks if {k: p.shape for k, p in n.named_parameters()} == shapes)
        self._bare = copy.deepcopy(largest).to("meta")
        runs = [(rate, len(list(same))) for rate, same in groupby(rates)]
        # The fused optimiser has one rate per group, so it gets a view of each parameter for each rate.
        self._lengths = [length for _, length in runs]
        views = [stack.detach().split(self._lengths) for stack in self.parameters.values()]
        self._views = [view for by_rate in views for view in by_rate]
        self._adam = torch.optim.Adam(
            [{"params": [by_rate[i] for by_rate in views], "lr": rate} for i, (rate, _) in enumerate(runs)],
            fused=True,
        )

    def __call__(self, *inputs: Any, parameters: dict[str, Tensor] | None = None) -> Any:
        """Compute outputs [N, ...], a tensor or a tuple, with the stack's own parameters or with others.

        An input that is no tensor is the same for all networks.
        """
        dims = tuple(None if self._shared or not isinstance(x, Tensor) else 0 for x in inputs)

        def call(parameters: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
            return functional_call(self._bare, parameters, inputs)

        return vmap(call, in_dims=(0, dims))(self.parameters if parameters is None else parameters, inputs)

    def network(self, number: int) -> N:
        """Copy of one network, with the largest shapes."""
        own = {name: p[number].detach().clone() for name, p in self.parameters.items()}
        network = copy.deepcopy(self._bare)
        network.load_state_dict(own, assign=True)
        return network

    def step(self, losses: Tensor) -> None:
        """Take one step of each network on its own loss [N]."""
        gradients: Sequence[Tensor] = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        if self._clip < math.inf:
            gradients = [g.clamp(-self._clip, self._clip) for g in gradients]
        # The fused optimiser reads a gradient with the strides of its parameter.
        parts = (part for g in gradients for part in g.contiguous().split(self._lengths))
        for view, part in zip(self._views, parts, strict=True):
            view.grad = part
        self._adam.step()

    def state(self) -> dict[str, Any]:
        """Parameters and moments, for `restore`."""
        return {
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "adam": self._adam.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load a `state`."""
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(state["parameters"][name])
        self._adam.load_state_dict(state["adam"])


def prune(parameters: dict[str, Tensor], below: float) -> tuple[dict[str, Tensor], Tensor]:
    """Set parameters to zero whose absolute value is below a threshold.

    Returns:
        The parameters [N, ...] by name, and how many each network keeps, [N].
    """
    kept = {name: p.detach().abs() >= below for name, p in parameters.items()}
    counts = torch.stack([k.flatten(1).sum(1) for k in kept.values()]).sum(0)
    return {name: p.detach() * kept[name] for name, p in parameters.items()}, counts
