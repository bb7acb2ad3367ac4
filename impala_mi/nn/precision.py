"""The precision that the agent computes in.

Weights are float32. An update may run the torso in bfloat16 (autocast), where nearly all of its work is. An actor's
own copy of the torso and the core may be bfloat16 altogether, its first convolution 8-bit integers (`packed`). The
core's state, the head, V-trace and the loss are float32 in any case. Behaviour logits are those of the policy
that acted, so that V-trace corrects what is rounded.
"""

import torch
from torch import Tensor

from impala_mi.config import Precision


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What a layer of this weight computes in here: autocast's, or its own."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def choose_dtype(precision: Precision, torso: str, device: torch.device) -> torch.dtype:
    """What the configuration's word means on this device."""
    if precision == "auto":
        return torch.bfloat16 if torso != "mlp" and native_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
