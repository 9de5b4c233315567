"""Moves modules between devices and precisions."""

from __future__ import annotations

import torch
from torch import nn


def move(module: nn.Module, device: torch.device | str, dtype: torch.dtype | None) -> None:
    """Moves all weights to `device` and casts those that are not trained to `dtype`, if one is given."""
    for tensor in (*module.parameters(), *module.buffers()):
        cast = dtype is not None and tensor.is_floating_point() and not tensor.requires_grad
        tensor.data = tensor.data.to(device, dtype if cast else tensor.dtype)
