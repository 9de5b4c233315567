"""A model is borrowed for sampling and given back as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from finetune.errors import ConfigError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter lies."""
    return next(module.parameters()).device


def best_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def compute_dtype(precision: str, module: nn.Module, device: torch.device) -> torch.dtype:
    """The precision that `module` is to be run in on `device`.

    Half-precision weights are run in their own precision. Otherwise "auto" is fp32 on a CPU and, on
    a GPU, bf16 where it has it, else fp16 (bf16 because SD 2.1 overflows in fp16).

    Raises:
        ConfigError: `precision` is none of "auto", "fp32", "bf16", "fp16".
    """
    if precision not in ("auto", *PRECISIONS):
        raise ConfigError(
            f"There is no precision named `{precision}`.",
            where="precision",
            mend=f"Choose one of: auto, {', '.join(PRECISIONS)}.",
        )
    stored = next(module.parameters()).dtype
    if stored != torch.float32:
        return stored
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@contextmanager
def borrowed(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Inside, the modules are on `device` and in eval mode; afterwards both are as they were found.

    Parameters keep their identity, so an optimizer that holds them goes on unharmed.
    """
    homes = [device_of(module) for module in modules]
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        for module in modules:
            module.to(device).eval()
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def autocast_to(dtype: torch.dtype, device: torch.device, unet: nn.Module | None = None) -> Iterator[None]:
    """Runs matrix products in `dtype` and hands the UNet's prediction on in fp32.

    The schedulers give the next latents the precision of the prediction; bf16 latents (8 bits of
    mantissa) would be visible as noise in the picture.
    """
    if dtype == torch.float32:
        yield
        return

    def to_fp32(_module: nn.Module, _args: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (output[0].float(), *output[1:])

    with ExitStack() as stack:
        if unet is not None:
            stack.callback(unet.register_forward_hook(to_fp32).remove)
        stack.enter_context(torch.autocast(device.type, dtype=dtype))
        yield
