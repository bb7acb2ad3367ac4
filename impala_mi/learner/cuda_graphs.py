"""Updates that are recorded once and replayed: CUDA graphs.

An update is thousands of kernels, many shorter than the time it takes to launch one from Python. A recorded one is
launched at once. Its shapes and addresses are fixed, so batches are copied into buffers and come in few different
shapes (`batching.even`), and nothing that was read from them may decide what is computed.
"""

import gc
from collections import Counter
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from impala_mi.types import Transitions, map_arrays

WARM_UP = 3
"""Updates of each shape that are not replayed: libraries choose and allocate in the first ones."""
MOST = 64
"""Shapes that are recorded; updates of others are computed as they come."""

Compute = Callable[[Transitions, Float[Tensor, ""]], Float[Tensor, " 6"]]
"""An update of a batch and a learning rate: work for the device, and where what comes of it will be."""
Recorded = tuple[Callable[[], None], Float[Tensor, " 6"]]
"""What replays an update, and where what came of it then is."""


class CudaRecorder:
    """Records what is computed on a stream of its own; all recordings share memory, as one runs at a time."""

    def __init__(self) -> None:
        self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute on that stream, in the order of the current one: what is recorded later must not begin here."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = compute()
        current.wait_stream(self._stream)
        result.record_stream(current)
        return result

    def record(self, compute: Callable[[], Tensor]) -> Recorded:
        """Record and do not compute; other threads may use the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # what it would free while recording
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):  # not `torch.cuda.graph`, which stays there if `compute` fails
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = compute()
            finally:
                graph.capture_end()
        return graph.replay, result


class Graphs:
    """An update that is recorded for each set of shapes, after some updates of them.

    Args:
        compute: the update.
        device: of the batches.
        recorder: of the device's kind.
    """

    def __init__(self, compute: Compute, device: torch.device, recorder: CudaRecorder) -> None:
        self._compute, self._recorder = compute, recorder
        self._rate = torch.zeros((), device=device)
        self._seen = Counter[tuple[torch.Size, ...]]()
        self._buffers: dict[tuple[int, torch.Size], Tensor] = {}
        self._recorded: dict[tuple[torch.Size, ...], Recorded] = {}

    def __call__(self, batch: Transitions, rate: float) -> Float[Tensor, " 6"]:
        """Update from a batch; what comes of it, on the device."""
        tensors: list[Tensor] = []
        map_arrays(batch, tensors.append)
        shapes = tuple(tensor.shape for tensor in tensors)
        self._rate.fill_(rate)
        self._seen[shapes] += 1
        if self._seen[shapes] <= WARM_UP or (shapes not in self._recorded and len(self._recorded) == MOST):
            return self._recorder.run(lambda: self._compute(batch, self._rate))
        for place, tensor in enumerate(tensors):
            self._buffer(place, tensor).copy_(tensor)
        if shapes not in self._recorded:
            places = iter(range(len(tensors)))
            fixed = map_arrays(batch, lambda tensor: self._buffer(next(places), tensor))
            self._recorded[shapes] = self._recorder.record(lambda: self._compute(fixed, self._rate))
        replay, result = self._recorded[shapes]
        replay()
        return result.clone()  # the next replay writes over it

    def _buffer(self, place: int, tensor: Tensor) -> Tensor:
        """Of a batch's tensor; recordings in which it has the same shape share it."""
        if (place, tensor.shape) not in self._buffers:
            self._buffers[place, tensor.shape] = torch.empty_like(tensor)
        return self._buffers[place, tensor.shape]
