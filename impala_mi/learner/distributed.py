"""Data parallelism over learner ranks: each has a part of the batch, and all apply the sum of their gradients."""

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from impala_mi.learner.optim import flat_gradient


def listen(ip: str) -> tuple[socket.socket, int]:
    """Socket for rank 0's store, bound to that address of this machine only, and its port."""
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
    timeout: timedelta,
) -> None:
    """Make this process one of `size` ranks; returns when all ranks have joined.

    Args:
        rank: 0 .. size - 1.
        size: number of ranks.
        ip: address of rank 0.
        port: port of rank 0's store.
        own_ip: address of this machine; the other ranks reach this rank on no other.
        listener: socket of rank 0 from `listen`, None for the other ranks.
        device: device of the gradients.
        timeout: time after which a rank that waits for others fails.
    """
    for family in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{family}_SOCKET_IFNAME", _interface(own_ip))
    store = dist.TCPStore(  # type: ignore[attr-defined]
        ip,
        port,
        size,
        is_master=listener is not None,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=None if listener is None else listener.detach(),
    )
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _interface(ip: str) -> str:
    """Name of the network interface with that address."""
    import psutil  # only ranks need it

    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == ip for address in addresses):
            return name
    raise OSError(f"no network interface has the address {ip}")


class GradientSum:
    """Sum of the gradient over the ranks, started while backward still computes the first layers.

    The gradients of the last layers (most parameters, little work) are complete first and are sent meanwhile.

    Args:
        params: parameters in the optimiser's order.
        first: number of parameters of the first layers, whose gradients come last.
    """

    def __init__(self, params: list[nn.Parameter], first: int) -> None:
        self.size = dist.get_world_size()
        self._first, self._last = params[:first], params[first:]
        self._missing, self._sum, self._work = 0, torch.empty(0), None
        for p in self._last:
            p.register_post_accumulate_grad_hook(self._count_gradient)

    def expect(self) -> None:
        """Prepare for a backward pass; call before it."""
        self._missing, self._work = len(self._last), None

    def take(self, scalars: Float[Tensor, " N"]) -> tuple[Float[Tensor, " P"], Float[Tensor, " N"]]:
        """Sums of the gradients and of `scalars` over all ranks; call after backward."""
        if self._work is None:  # some parameters had no gradient
            self._begin()
        first = torch.cat([flat_gradient(self._first), scalars])
        dist.all_reduce(first)
        assert self._work is not None
        self._work.wait()
        count = len(first) - len(scalars)
        return torch.cat([first[:count], self._sum]), first[count:]

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""
        if tensor.numel():
            dist.all_reduce(tensor)

    def _count_gradient(self, _: Tensor) -> None:
        self._missing -= 1
        if not self._missing:
            self._begin()

    def _begin(self) -> None:
        self._sum = flat_gradient(self._last)
        self._work = dist.all_reduce(self._sum, async_op=True)
