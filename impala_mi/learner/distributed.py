"""Ranks that learn together: each has a part of the batch's columns, and all apply the sum of their gradients."""

import os
import socket
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from impala_mi.learner.optim import flat_gradient


def listen(ip: str) -> tuple[socket.socket, int]:
    """A socket for rank 0's store, open on that address of this machine alone, and its port."""
    listener = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((ip, 0))
    listener.listen()
    return listener, int(listener.getsockname()[1])


def join(
    rank: int,
    size: int,
    ip: str,
    port: int,
    own_ip: str,
    listener: socket.socket | None,
    device: torch.device,
    patience: timedelta,
) -> None:
    """Make this process one of `size` ranks; returns when all have joined.

    Args:
        rank: 0 .. size - 1.
        size: number of ranks.
        ip: of rank 0.
        port: of rank 0's store.
        own_ip: of this machine, on which alone the others reach this rank.
        listener: rank 0's, from `listen`.
        device: of the gradients.
        patience: of a rank that waits for others.
    """
    for family in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{family}_SOCKET_IFNAME", _interface(own_ip))
    store = dist.TCPStore(  # type: ignore[attr-defined]
        ip,
        port,
        size,
        is_master=listener is not None,
        timeout=patience,
        wait_for_workers=False,
        master_listen_fd=None if listener is None else listener.detach(),
    )
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)


def _interface(ip: str) -> str:
    """The network interface with that address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == ip for address in addresses):
            return name
    raise OSError(f"no network interface has the address {ip}")


class GradientSum:
    """The sum of the gradient over the ranks, begun while backward is still at the first layers.

    The gradients of the last layers, most parameters but little work, are there first and travel meanwhile.

    Args:
        params: in the optimiser's order.
        first: how many of them are first layers, whose gradients come last.
    """

    def __init__(self, params: list[nn.Parameter], first: int) -> None:
        self.size = dist.get_world_size()
        self._first, self._last = params[:first], params[first:]
        self._missing, self._sum, self._work = 0, torch.empty(0), None
        for p in self._last:
            p.register_post_accumulate_grad_hook(self._one_is_there)

    def expect(self) -> None:
        """Call before backward."""
        self._missing, self._work = len(self._last), None

    def take(self, outcome: Float[Tensor, " N"]) -> tuple[Float[Tensor, " P"], Float[Tensor, " N"]]:
        """After backward: the gradients' sum, and that of what each rank made of its update."""
        if self._work is None:  # some had no gradient
            self._begin()
        first = torch.cat([flat_gradient(self._first), outcome])
        dist.all_reduce(first)
        assert self._work is not None
        self._work.wait()
        count = len(first) - len(outcome)
        return torch.cat([first[:count], self._sum]), first[count:]

    def _one_is_there(self, _: Tensor) -> None:
        self._missing -= 1
        if not self._missing:
            self._begin()

    def _begin(self) -> None:
        self._sum = flat_gradient(self._last)
        self._work = dist.all_reduce(self._sum, async_op=True)
