"""Precision in which the agent computes.

Weights are float32. An update may run the torso, which is nearly all of its work, in bfloat16 (autocast). In an
actor's copy of the agent, torso and core may be bfloat16 altogether, and the first convolution 8-bit (`packed`).
The recurrent state, the head, V-trace and the loss are always float32. Behaviour logits are those of the policy
that acted, so V-trace corrects for the rounding.
"""

import torch
from torch import Tensor

from impala_mi.config import Precision


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Dtype in which a layer with this weight computes: autocast's if it is enabled, else the weight's."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def choose_dtype(precision: Precision, torso: str, device: torch.device) -> torch.dtype:
    """Dtype of a configured precision on this device."""
    if precision == "auto":
        return torch.bfloat16 if torso != "mlp" and native_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
