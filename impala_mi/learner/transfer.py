"""Transfers of batches to the device and of results back to the host, overlapped with the device's work."""

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
"""Bytes that a thread copies at once."""


@dataclass(frozen=True)
class DeviceBatch:
    """Batch whose copy to the device has started."""

    _batch: Transitions
    _copied: torch.cuda.Event | None

    def take(self) -> Transitions:
        """Batch [T+1, B, ...] for work that is queued on the current stream after this call."""
        if self._copied is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self._copied)

            def in_use(tensor: torch.Tensor) -> None:
                if tensor.is_cuda:
                    tensor.record_stream(stream)  # its memory is kept until that work is done

            map_arrays(self._batch, in_use)
        return self._batch


class Stager:
    """Stager that copies batches to a device while the device computes.

    Buffers in host memory are reused, so that no pages are allocated or locked for a batch. Two sets take turns:
    one is filled while a CPU learns from the other, or while the other is still being copied to a GPU on a stream
    of its own. A batch's arrays in host memory are therefore valid until the second batch after it.

    Args:
        device: device of the learner.
        threads: threads that fill the buffers.
        pad_to_buckets: whether batches are padded for `cuda_graphs.Graphs`, see `batching.pad_to_buckets`.
    """

    def __init__(self, device: torch.device, threads: int, pad_to_buckets: bool = False) -> None:
        self._device, self._padded = device, pad_to_buckets
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers = [_Buffers(pinned=device.type == "cuda") for _ in range(2)]
        self._pool = ThreadPoolExecutor(threads)
        if device.type == "cpu":  # a batch in Ray's object store is read-only
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)

    def stage(self, rollouts: Sequence[Transitions]) -> DeviceBatch:
        """Stack rollouts and start their copy; waits only for buffers that are still being copied.

        On a CPU, a rollout that is a whole batch is used in place: it must not be overwritten before the update.
        """
        if self._device.type == "cpu" and len(rollouts) == 1:
            return DeviceBatch(
                to_device(map_arrays(rollouts[0], torch.from_numpy), self._device, self._padded), None
            )
        buffers = self._buffers[0]
        self._buffers.reverse()
        buffers.free()
        batch = stack(rollouts, lambda arrays, dim: _fill(arrays, dim, buffers.allocate, self._pool))
        if self._stream is None:
            return DeviceBatch(to_device(batch, self._device, self._padded), None)
        with torch.cuda.stream(self._stream):
            moved = to_device(batch, self._device, self._padded)
            buffers.copied = torch.cuda.Event()
            buffers.copied.record()
        return DeviceBatch(moved, buffers.copied)


class _Buffers:
    """Tensors in host memory that are reused for other batches."""

    def __init__(self, pinned: bool) -> None:
        self._pinned, self._tensors, self._next = pinned, list[torch.Tensor](), 0
        self.copied: torch.cuda.Event | None = None

    def free(self) -> None:
        """Wait until no copy reads the tensors."""
        if self.copied is not None:
            self.copied.synchronize()
        self._next = 0

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Next buffer of the set: batches ask for buffers in the same order, and shapes rarely change."""
        at, self._next = self._next, self._next + 1
        if at < len(self._tensors) and self._tensors[at].shape == shape and self._tensors[at].dtype == dtype:
            return self._tensors[at]
        tensor = torch.empty(shape, dtype=dtype, pin_memory=self._pinned)
        self._tensors[at : at + 1] = [tensor]
        return tensor


class HostCopy:
    """Copies of tensors in host memory, made asynchronously after the work queued so far."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._copies = {name: _copied(tensor.detach()) for name, tensor in tensors.items()}
        self._done: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._done = torch.cuda.Event()
            self._done.record()

    def wait(self) -> dict[str, torch.Tensor]:
        """Wait for the copies and return them."""
        if self._done is not None:
            self._done.synchronize()
        return self._copies


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)


def _fill(arrays: Sequence[np.ndarray], dim: int, allocate: Allocate, pool: ThreadPoolExecutor) -> torch.Tensor:
    """Join arrays in a buffer; threads copy large ones, some time steps each."""
    shape = list(arrays[0].shape)
    shape[dim] = sum(a.shape[dim] for a in arrays)
    tensor = allocate(tuple(shape), torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype)
    out = tensor.numpy()
    rows = len(out) if dim == 0 else max(1, _PART_BYTES * len(out) // max(out.nbytes, 1))

    def fill(begin: int) -> None:
        np.concatenate([a if dim == 0 else a[begin : begin + rows] for a in arrays], dim, out[begin : begin + rows])

    list(pool.map(fill, range(0, len(out), rows or 1)))
    return tensor
