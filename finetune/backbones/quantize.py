"""A UNet whose weights are stored in 8 or 4 bits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from finetune.backbones.backbone import Backbone
from finetune.backbones.precision import best_device, dtype_on, precision_name
from finetune.config.model import Quantization
from finetune.errors import ConfigError
from finetune.kernels import can_quantize, quantized, quantized_layers, release_mapped

# Not what is before and after them: little memory, and the whole picture passes through it.
_BLOCKS = ("down_blocks", "mid_block", "up_blocks")


def quantize_unet(backbone: Backbone, kind: Quantization) -> None:
    """Stores the weights of all linear layers and convolutions in the UNet's blocks in fewer bits.

    A note says what that saves and costs. Convolutions are not left out: they are two thirds of SD 1.5's
    weights, an eighth of SDXL's.

    Args:
        backbone: A model as it was loaded: frozen, on the CPU.
        kind: The way to store them; with "none" nothing is done.
    """
    if kind == "none":
        return
    dtype = dtype_on("auto", best_device(), backbone.unet)
    before, wrong, all_ = memory(backbone.unet, dtype), 0.0, 0.0
    for name, layer in list(backbone.unet.named_modules()):
        if not name.startswith(_BLOCKS) or not can_quantize(layer):
            continue
        parent, _, own = name.rpartition(".")
        made = quantized(layer, kind)
        setattr(backbone.unet.get_submodule(parent), own, made)
        wrong, all_ = wrong + _square(made.weight - layer.weight), all_ + _square(layer.weight)
        release_mapped(layer.weight.data)
    backbone.notes += (
        f"{kind}: the UNet takes {_size(memory(backbone.unet, dtype))} instead of {_size(before)} "
        f"({precision_name(dtype)}); its weights are off by {100 * math.sqrt(wrong / all_):.2g} % (rms).",
    )


def quantization_of(unet: nn.Module) -> Quantization:
    """What a UNet's weights are stored in; "none" for weights as usual."""
    found: Any = next((layer.kind for layer in quantized_layers(unet)), "none")
    return found  # type: ignore[no-any-return]


def refuse_quantized(backbone: Backbone, what: str) -> None:
    """Refuses what needs, or would change, the weights themselves.

    Args:
        backbone: The model.
        what: That, as the begin of a sentence.

    Raises:
        ConfigError: If the model is quantized.
    """
    if (kind := quantization_of(backbone.unet)) != "none":
        raise ConfigError(
            f"{what} needs the UNet's own weights, and they are stored rounded to {kind}.",
            where="model.quantize",
            fix="Load the model without it.",
        )


def memory(module: nn.Module, dtype: torch.dtype) -> int:
    """The bytes that a module's weights take, those that are not quantized in `dtype`."""
    own = {id(p) for layer in quantized_layers(module) for p in (layer.qweight, layer.scale_bits)}
    return sum(
        p.numel() * (p.element_size() if id(p) in own else dtype.itemsize) for p in module.parameters()
    )


def _square(tensor: torch.Tensor) -> float:
    return float(tensor.detach().float().square().sum(dtype=torch.float64))


def _size(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
