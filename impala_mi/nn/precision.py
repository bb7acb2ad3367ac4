"""Precision in which the agent computes.

Weights are float32. An update may run the torso, which is nearly all of its work, in bfloat16 (autocast). In an
actor's copy of the agent, torso and core may be bfloat16 altogether, and the first convolution 8-bit (`packed`).
The recurrent state, the head, V-trace and the loss are always float32. Behaviour logits are those of the policy
that acted, so V-trace corrects for the rounding.

On CPUs denormal numbers, below 1.2e-38, count as 0 (`compute_with`). They arise where the optimiser's moments decay
or a policy has become certain, and some processors compute with them many times slower.
"""

import torch
from torch import Tensor

from impala_mi.config import Precision


def compute_with(threads: int) -> None:
    """Let this thread and those that it starts compute with a number of threads, and take denormal numbers for 0.

    Call it in a thread before anything is computed there: the threads that share its operations are then started by
    the first one, and keep the setting that they start with.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)


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
