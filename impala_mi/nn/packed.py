"""Packed layers: weights in oneDNN's layout, packed once per version, for acting on a CPU.

PyTorch packs weights in every call, scales and rearranges those of the first convolution, and computes every ReLU
in a pass of its own: more than a third of the time of a batch of 32 frames. Packed layers compute the same sums,
except in the first convolution: its weights are rounded to 8 bits with a scale per channel and multiply the frames'
bytes. Behaviour logits are those of the policy that acted, so V-trace corrects for the rounding.

The operators are the ones that PyTorch's compiler calls for such layers.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from impala_mi.nn.precision import native_bfloat16

Layer = Callable[[Tensor], Tensor]


def packs(weight: Tensor) -> bool:
    """Whether layers with this weight are packed: bfloat16 in inference mode on a CPU that multiplies bfloat16."""
    acting = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and torch.is_inference_mode_enabled()
    return acting and _available()


@functools.cache
def _available() -> bool:
    operators = (
        (torch.ops.mkldnn, ("_reorder_linear_weight", "_linear_pointwise")),
        (torch.ops.mkldnn, ("_reorder_convolution_weight", "_convolution_pointwise")),
        (torch.ops.onednn, ("qconv_prepack", "qconv_pointwise")),
    )
    present = all(hasattr(where, name) for where, names in operators for name in names)
    return native_bfloat16(torch.device("cpu")) and present


def forget(module: nn.Module, _: object) -> None:
    """Drop a module's packed weights, so that they are packed again: a hook for when weights are loaded."""
    module.packed = None  # type: ignore[assignment]


def linear(weight: Float[Tensor, "k n"], bias: Float[Tensor, " k"], rows: int, relu: bool = False) -> Layer:
    """Packed Wx + b of [N, n], or its ReLU; fastest for N = `rows`."""
    packed, then = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows), "relu" if relu else "none"
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], "")


def convolution(conv: nn.Conv2d, shape: torch.Size) -> Layer:
    """Packed ReLU of a convolution of [N, c, h, w], channels last; fastest for `shape`."""
    sizes = (conv.padding, conv.stride, conv.dilation, conv.groups)
    packed = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *sizes, shape)
    return lambda x: torch.ops.mkldnn._convolution_pointwise(x, packed, conv.bias, *sizes, "relu", [], "")


def convolution_of_bytes(
    weight: Float[Tensor, "o c k l"], bias: Float[Tensor, " o"] | None, stride: tuple[int, int], shape: torch.Size
) -> Callable[[Shaped[Tensor, "N c h w"]], Float[Tensor, "N o h2 w2"]]:
    """Packed ReLU of a convolution of uint8 [N, c, h, w], scaled to [0, 1], channels last; fastest for `shape`."""
    weight, scale = weight.float(), 1 / 255
    steps = (weight.abs().amax((1, 2, 3)) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    whole = (weight / steps[:, None, None, None]).round().to(torch.int8)
    rest = (list(stride), [0, 0], [1, 1], 1)
    packed = torch.ops.onednn.qconv_prepack(whole, steps, scale, 0, *rest, list(shape))
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    bias = None if bias is None else bias.float()

    def apply(x: Tensor) -> Tensor:
        return torch.ops.onednn.qconv_pointwise(
            x, scale, 0, packed, steps, zeros, bias, *rest, 1.0, 0, torch.bfloat16, "relu", [], ""
        )

    return apply
