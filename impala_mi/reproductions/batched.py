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

N = TypeVar("N", bound=nn.Module)


def seed_of(*what: object) -> int:
    """A seed that depends on all that is named, 32 bits."""
    return zlib.crc32(repr(what).encode())


def made(seed: int, make: Callable[[], N]) -> N:
    """A network whose initial weights depend on the seed alone; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def prepare() -> None:
    """Have the process suit stacks of a few MB: freed memory is kept, and one thread is faster than several."""
    keep_freed_memory()
    torch.set_num_threads(1)


def stacked(networks: Sequence[nn.Module], device: torch.device) -> dict[str, Tensor]:
    """The parameters of N networks of one kind, [N, ...] by name; those of smaller ones are padded with zeros.

    A hidden unit whose weights are zero on the way in and on the way out gets zero gradients, in linear layers
    with or without a rectifier as in the multiplicative family, and so does an output that is zero where zero is
    wanted. Adam leaves both at zero, so a padded network remains the small one while it trains.
    """
    found = {}
    for name, first in networks[0].named_parameters():
        some = [dict(network.named_parameters())[name].detach() for network in networks]
        shape = [max(lengths) for lengths in zip(*(p.shape for p in some), strict=True)]
        whole = first.new_zeros(len(some), *shape)
        for row, p in zip(whole, some, strict=True):
            row[tuple(slice(length) for length in p.shape)] = p
        found[name] = whole.to(device).requires_grad_()
    return found


class Networks(Generic[N]):
    """N networks, each with its own learning rate of Adam.

    Args:
        networks: one of which must have the largest shape of every parameter.
        rates: [N] learning rates; networks of one rate come one after another.
        shared: whether all networks see the same inputs, which then have no dimension N.
        device: to train on.
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
        self.parameters = stacked(networks, device)
        shapes = {name: whole.shape[1:] for name, whole in self.parameters.items()}
        largest = next(n for n in networks if {k: p.shape for k, p in n.named_parameters()} == shapes)
        self._bare = copy.deepcopy(largest).to("meta")
        runs = [(rate, len(list(same))) for rate, same in groupby(rates)]
        # The fused optimiser has one rate a group, so it sees a view for each parameter and rate.
        self._lengths = [length for _, length in runs]
        views = [whole.detach().split(self._lengths) for whole in self.parameters.values()]
        self._views = [view for some in views for view in some]
        self._adam = torch.optim.Adam(
            [{"params": [some[i] for some in views], "lr": rate} for i, (rate, _) in enumerate(runs)], fused=True
        )

    def __call__(self, *inputs: Any, parameters: dict[str, Tensor] | None = None) -> Any:
        """[N, ...] outputs, a tensor or a tuple of them, of the networks' own parameters or of others.

        An input that is no tensor is the same for all networks.
        """
        dims = tuple(None if self._shared or not isinstance(some, Tensor) else 0 for some in inputs)

        def one(parameters: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
            return functional_call(self._bare, parameters, inputs)

        return vmap(one, in_dims=(0, dims))(self.parameters if parameters is None else parameters, inputs)

    def network(self, number: int) -> N:
        """A copy of one of them, of the largest shape."""
        own = {name: p[number].detach().clone() for name, p in self.parameters.items()}
        network = copy.deepcopy(self._bare)
        network.load_state_dict(own, assign=True)
        return network

    def step(self, losses: Tensor) -> None:
        """One step of each network down its own loss [N]."""
        gradients: Sequence[Tensor] = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        if self._clip < math.inf:
            gradients = [g.clamp(-self._clip, self._clip) for g in gradients]
        # The fused optimiser reads a gradient as if it lay like its parameter.
        parts = (part for g in gradients for part in g.contiguous().split(self._lengths))
        for view, part in zip(self._views, parts, strict=True):
            view.grad = part
        self._adam.step()

    def state(self) -> dict[str, Any]:
        """To go on from: parameters and moments."""
        return {
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "adam": self._adam.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(state["parameters"][name])
        self._adam.load_state_dict(state["adam"])


def pruned(parameters: dict[str, Tensor], below: float) -> tuple[dict[str, Tensor], Tensor]:
    """The parameters without those whose absolute value is below a threshold, and how many each network has left.

    Returns: [N, ...] by name, and counts [N].
    """
    kept = {name: p.detach().abs() >= below for name, p in parameters.items()}
    left = torch.stack([k.flatten(1).sum(1) for k in kept.values()]).sum(0)
    return {name: p.detach() * kept[name] for name, p in parameters.items()}, left
