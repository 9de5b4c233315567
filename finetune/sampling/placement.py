"""A model is borrowed for sampling and given back as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from finetune.kernels import can_pack


@contextmanager
def borrowed(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Inside, the modules are on `device` and in eval mode; afterward both are as they were found.

    Parameters keep their identity, so an optimizer that holds them keeps working.
    """
    homes = [next(module.parameters()).device for module in modules]
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        for module, home in zip(modules, homes, strict=True):
            _move(module, home, device)
            module.eval()
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            _move(module, device, home)
        for part, mode in modes.items():
            part.training = mode


def _move(module: nn.Module, there: torch.device, here: torch.device) -> None:
    if there != here:  # to look at each tensor takes longer than a step of a tiny model
        module.to(here)


def plain_layers(modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """The layers that `finetune.kernels.packed` takes, but for those in PEFT's, which may read weights."""
    for module in modules:
        tuned = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
        inside = {id(part) for layer in tuned for part in layer.modules()}
        yield from (layer for layer in module.modules() if id(layer) not in inside and can_pack(layer))


def autocast_to(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Runs matrix products in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
