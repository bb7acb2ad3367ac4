"""CUDA graphs: updates that are recorded once per shape and replayed.

An update is thousands of kernels, many shorter than the time it takes to launch one from Python. A recorded update
is launched as a whole. Its shapes and addresses are fixed, so batches are copied into buffers and have few
different shapes (`batching.pad_to_buckets`), and control flow must not depend on values of the batch.
"""

import gc
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from impala_mi.types import Transitions, leaves, map_arrays

if TYPE_CHECKING:
    from impala_mi.learner.update import UpdateStats

WARM_UP = 3
"""Updates of each shape that run without recording: libraries choose algorithms and allocate in the first ones."""
MAX_GRAPHS = 64
"""Shapes that are recorded; updates of further shapes run without recording."""

Compute = Callable[[Transitions, Float[Tensor, ""]], "UpdateStats"]
"""Update of a batch with a learning rate; returns scalars on the device."""
Recorded = tuple[Callable[[], None], "UpdateStats"]
"""Function that replays an update, and the scalars that each replay overwrites."""


class CudaRecorder:
    """Recorder on a stream of its own; all recordings share memory, as one runs at a time."""

    def __init__(self) -> None:
        self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def run(self, compute: Callable[[], "UpdateStats"]) -> "UpdateStats":
        """Compute on the recorder's stream, in the order of the current one.

        What is recorded later must have run on that stream before.
        """
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = compute()
        current.wait_stream(self._stream)
        result.values.record_stream(current)
        return result

    def record(self, compute: Callable[[], "UpdateStats"]) -> Recorded:
        """Record without computing; other threads may use the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # nothing may be freed while recording
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):  # `torch.cuda.graph` would keep this stream if `compute` fails
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = compute()
            finally:
                graph.capture_end()
        return graph.replay, result


class Graphs:
    """Update that is recorded for each set of shapes, after `WARM_UP` updates of these shapes.

    Args:
        compute: the update.
        device: device of the batches.
        recorder: recorder for that kind of device.
    """

    def __init__(self, compute: Compute, device: torch.device, recorder: CudaRecorder) -> None:
        self._compute, self._recorder = compute, recorder
        self._rate = torch.zeros((), device=device)
        self._seen = Counter[tuple[torch.Size, ...]]()
        self._buffers: dict[tuple[int, torch.Size], Tensor] = {}
        self._recorded: dict[tuple[torch.Size, ...], Recorded] = {}

    def __call__(self, batch: Transitions, rate: float) -> "UpdateStats":
        """Update from a batch; returns scalars on the device."""
        tensors: list[Tensor] = leaves(batch)
        shapes = tuple(tensor.shape for tensor in tensors)
        self._rate.fill_(rate)
        self._seen[shapes] += 1
        full = shapes not in self._recorded and len(self._recorded) == MAX_GRAPHS
        if self._seen[shapes] <= WARM_UP or full:
            return self._recorder.run(lambda: self._compute(batch, self._rate))
        for place, tensor in enumerate(tensors):
            self._buffer(place, tensor).copy_(tensor)
        if shapes not in self._recorded:
            places = iter(range(len(tensors)))
            fixed = map_arrays(batch, lambda tensor: self._buffer(next(places), tensor))
            self._recorded[shapes] = self._recorder.record(lambda: self._compute(fixed, self._rate))
        replay, result = self._recorded[shapes]
        replay()
        return result._replace(values=result.values.clone())  # the next replay overwrites it

    def _buffer(self, place: int, tensor: Tensor) -> Tensor:
        """Buffer of a batch's tensor; recordings in which it has the same shape share it."""
        if (place, tensor.shape) not in self._buffers:
            self._buffers[place, tensor.shape] = torch.empty_like(tensor)
        return self._buffers[place, tensor.shape]
