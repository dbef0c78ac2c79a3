"""The precision in which networks compute: what `mixed_precision` in a parameter file stands for."""

import torch

from common.settings import MixedPrecision

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_bf16(device: str | torch.device) -> bool:
    """Tell whether a device has instructions for bf16; without them bf16 is slower than single precision."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # x86 (AVX-512 or AMX), then ARM
    names = ("avx512_bf16", "amx_bf16", "bf16")
    return any(torch.cpu.get_capabilities().get(name, False) for name in names)


def resolve(precision: MixedPrecision, device: str | torch.device) -> MixedPrecision:
    """Return the precision itself, and for `auto` bf16 where the device has it, else no."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "no"


def autocast(precision: MixedPrecision, device: str | torch.device) -> torch.autocast:
    """Return the context in which a network computes at this precision on a device."""
    dtype = _TYPES.get(resolve(precision, device))
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None)
