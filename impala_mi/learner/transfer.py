"""Batches on their way to the device and results on their way back, beside its work."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from impala_mi.learner.batching import stack, to_device
from impala_mi.types import Transitions, map_arrays

Allocate = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]

_PART_BYTES = 2**22
"""What a thread copies at once."""


@dataclass(frozen=True)
class DeviceBatch:
    """A batch that is on its way to the device, or there."""

    _batch: Transitions
    _copied: torch.cuda.Event | None

    def take(self) -> Transitions:
        """The batch [T+1, B, ...], for work that is put on the current stream from now on."""
        if self._copied is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self._copied)

            def in_use(tensor: torch.Tensor) -> None:
                if tensor.is_cuda:
                    tensor.record_stream(stream)  # until that work is done

            map_arrays(self._batch, in_use)
        return self._batch


class Stager:
    """Brings batches to a device while it computes with others.

    Buffers in the host's memory are used again, so that neither pages nor page locks are made for a batch. Two sets
    take turns: one is filled while a CPU learns from the other, or while the other is still copied to a GPU, on a
    stream of its own. So what is in the host's memory of a batch is good until the second batch after it.

    Args:
        device: of the learner.
        threads: that fill the buffers.
        even: whether batches are to have few different shapes, for `graphs.Graphs`; see `batching.even`.
    """

    def __init__(self, device: torch.device, threads: int, pad_to_buckets: bool = False) -> None:
        self._device, self._even = device, pad_to_buckets
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers = [_Buffers(pinned=device.type == "cuda") for _ in range(2)]
        self._pool = ThreadPoolExecutor(threads)
        if device.type == "cpu":  # nobody writes to a batch that lies in Ray's object store
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)

    def stage(self, unrolls: Sequence[Transitions]) -> DeviceBatch:
        """Stack unrolls and start their copy; waits only for buffers that are still being copied.

        A hand-in that is a whole batch is learnt from where it lies, on a CPU: it must not be written to before.
        """
        if self._device.type == "cpu" and len(unrolls) == 1:
            return DeviceBatch(to_device(map_arrays(unrolls[0], torch.from_numpy), self._device, self._even), None)
        buffers = self._buffers[0]
        self._buffers.reverse()
        buffers.free()
        batch = stack(unrolls, lambda arrays, dim: _fill(arrays, dim, buffers.allocate, self._pool))
        if self._stream is None:
            return DeviceBatch(to_device(batch, self._device, self._even), None)
        with torch.cuda.stream(self._stream):
            there = to_device(batch, self._device, self._even)
            buffers.copied = torch.cuda.Event()
            buffers.copied.record()
        return DeviceBatch(there, buffers.copied)


class _Buffers:
    """Tensors in the host's memory that are used again for other batches."""

    def __init__(self, pinned: bool) -> None:
        self._pinned, self._tensors, self._next = pinned, list[torch.Tensor](), 0
        self.copied: torch.cuda.Event | None = None

    def free(self) -> None:
        """Wait until nobody reads them."""
        if self.copied is not None:
            self.copied.synchronize()
        self._next = 0

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The next buffer: every batch asks for the same ones in the same order, and shapes rarely change."""
        at, self._next = self._next, self._next + 1
        if at < len(self._tensors) and self._tensors[at].shape == shape and self._tensors[at].dtype == dtype:
            return self._tensors[at]
        tensor = torch.empty(shape, dtype=dtype, pin_memory=self._pinned)
        self._tensors[at : at + 1] = [tensor]
        return tensor


class HostCopy:
    """Copies of tensors in the host's memory, there when the device has come so far; nobody waits before."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._copies = {name: _copied(tensor.detach()) for name, tensor in tensors.items()}
        self._done: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._done = torch.cuda.Event()
            self._done.record()

    def wait(self) -> dict[str, torch.Tensor]:
        """The copies."""
        if self._done is not None:
            self._done.synchronize()
        return self._copies


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)


def _fill(arrays: Sequence[np.ndarray], dim: int, allocate: Allocate, pool: ThreadPoolExecutor) -> torch.Tensor:
    """Join arrays in a buffer; large ones in several threads, each some rows of time."""
    shape = list(arrays[0].shape)
    shape[dim] = sum(a.shape[dim] for a in arrays)
    tensor = allocate(tuple(shape), torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype)
    out = tensor.numpy()
    rows = len(out) if dim == 0 else max(1, _PART_BYTES * len(out) // max(out.nbytes, 1))

    def fill(begin: int) -> None:
        np.concatenate([a if dim == 0 else a[begin : begin + rows] for a in arrays], dim, out[begin : begin + rows])

    list(pool.map(fill, range(0, len(out), rows or 1)))
    return tensor
