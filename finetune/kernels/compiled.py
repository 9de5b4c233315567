"""Transformer blocks that PyTorch's compiler has translated for the device."""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from finetune.kernels.swapped import Swap

# Variants of a block that the compiler may make: one for each width and number of positions, with and
# without gradients. Beyond its default of 8, which a ControlNet reaches, it would quietly give up.
_MOST_VARIANTS = 64


def compiled(model: nn.Module) -> list[Swap]:
    """Compiles each block of a UNet's transformers by itself, when it is first used.

    Blocks of equal sizes share the result, so that this takes a fraction of the time that a whole UNet would
    (regional compilation, as diffusers' `compile_repeated_blocks`, which would compile for good).

    Args:
        model: Any module with such blocks in it.
    """
    torch._dynamo.config.recompile_limit = _MOST_VARIANTS
    blocks = [block for block in model.modules() if isinstance(block, BasicTransformerBlock)]
    return [Swap(block, "forward", torch.compile(block.forward, dynamic=False)) for block in blocks]
