"""Networks without numbers, on PyTorch's `meta` device: shapes and parameter counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _SkipNormal(TorchFunctionMode):
    """Mode without `normal_`: for meta tensors PyTorch loads its compiler to compute nothing (2 CPU seconds)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        skipped = func in (Tensor.normal_, nn.init.normal_)
        return (args[0] if args else kwargs["tensor"]) if skipped else func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Make modules on the `meta` device inside, without memory or initialisation."""
    with torch.device("meta"), _SkipNormal():
        yield


def num_parameters(module: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
