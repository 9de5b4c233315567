"""The device and the precision that a model runs in."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from finetune.errors import ConfigError
from finetune.kernels import count_weights

# Weights of a UNet from which on bf16 is faster on a CPU: SD 1.5 has 860 million, storybook 6 million.
_LARGE = 100_000_000
_HALF = {"F16": torch.float16, "BF16": torch.bfloat16}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def best_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def dtype_on(precision: str, device: torch.device, module: nn.Module | None = None) -> torch.dtype:
    """The dtype that a setting `precision` means for `module` on `device`.

    "auto" is bf16 on CUDA GPUs that compute in it (SD 2.1 overflows in fp16), fp16 on other CUDA GPUs, bf16
    on CPUs that compute in it if the model is large, and fp32 elsewhere.

    Raises:
        ConfigError: `precision` is none of "auto", "fp32", "bf16", "fp16".
    """
    if precision not in ("auto", *PRECISIONS):
        raise ConfigError(
            f"There is no precision named `{precision}`.",
            where="precision",
            fix=f"Choose one of: auto, {', '.join(PRECISIONS)}.",
        )
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cpu":
        return torch.bfloat16 if _computes_bf16(device) and _is_large(module) else torch.float32
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if _computes_bf16(device) else torch.float16


def compute_dtype(precision: str, module: nn.Module, device: torch.device) -> torch.dtype:
    """The precision that `module` runs in on `device`.

    Half-precision weights run in their own precision, fp32 weights as `dtype_on` says.

    Raises:
        ConfigError: `precision` is none of "auto", "fp32", "bf16", "fp16".
    """
    wanted = dtype_on(precision, device, module)
    stored = next(module.parameters()).dtype
    return wanted if stored == torch.float32 else stored


def vae_dtype(setting: str, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What the large convolutions of a VAE multiply in.

    Args:
        setting: `model.vae_precision`; "auto" is bf16 if the UNet computes in it and so does the device.
        dtype: What the UNet computes in.
        device: Where the VAE computes.
    """
    if setting != "auto":
        return PRECISIONS[setting]
    return dtype if dtype == torch.bfloat16 and _computes_bf16(device) else torch.float32


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":  # older GPUs, such as a T4, emulate bf16, many times slower
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def _is_large(module: nn.Module | None) -> bool:
    return module is not None and count_weights(module) >= _LARGE


def stored_dtype(types: Iterable[str]) -> torch.dtype:
    """The type to load weights in: fp16 or bf16 if all of them are stored so, else fp32.

    Args:
        types: Of the tensors in a file, as safetensors names them; integers, such as positions, do not count.
    """
    floating = {stored for stored in types if stored.startswith(("F", "BF"))}
    return _HALF.get(floating.pop(), torch.float32) if len(floating) == 1 else torch.float32


def precision_name(dtype: torch.dtype) -> str:
    """The setting for `dtype`: the inverse of `PRECISIONS`."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)
