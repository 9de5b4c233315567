"""Writes LoRA files with the key names of kohya's sd-scripts.

A1111, Forge, ComfyUI, InvokeAI and diffusers read them. DoRA is written as LyCORIS does
(`dora_scale`, one for each output). diffusers leaves `dora_scale` out when it reads this layout:
with DoRA, use the diffusers layout there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from finetune.adapters.lora import LoRA
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.backbones import Backbone
from finetune.formats.tensors import write_tensors


def write_kohya(
    path: Path, lora: LoRA, metadata: Mapping[str, str], *, dtype: torch.dtype = torch.float32
) -> None:
    """Writes a trained LoRA as a file for A1111, Forge, ComfyUI and others.

    Args:
        path: The file; it appears whole or not at all.
        lora: The adapter.
        metadata: How the file was made (`formats.metadata`); `ss_network_*` are added.
        dtype: Of the weights in the file.
    """
    weights = lora.weights()
    tensors = kohya_tensors(weights, lora.backbone)
    write_tensors(path, _cast(tensors, dtype), {**metadata, **network_metadata(weights)})


def kohya_tensors(weights: LoRAWeights, backbone: Backbone) -> dict[str, Tensor]:
    """The content of the file: `lora_down`, `lora_up` and `alpha` of each layer, and `dora_scale`.

    All layers of a part get the same alpha (their `lora_up` makes up for it), because diffusers
    misreads files with several: it looks them up under names from before PEFT.

    Args:
        weights: What has been learned.
        backbone: The model, for the names.
    """
    tensors: dict[str, Tensor] = {}
    for part, layers in weights.parts().items():
        alpha = _common_alpha(layers)
        for name, layer in layers.items():
            key = backbone.kohya_name(part, name)
            tensors[f"{key}.lora_down.weight"] = layer.down
            tensors[f"{key}.lora_up.weight"] = layer.up * (layer.alpha / alpha)
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
            if layer.magnitude is not None:
                tensors[f"{key}.dora_scale"] = layer.magnitude.view(-1, *[1] * (layer.down.ndim - 1))
    return tensors


def network_metadata(weights: LoRAWeights) -> dict[str, str]:
    """`ss_network_module`, `ss_network_dim`, `ss_network_alpha` and `ss_network_args` of a LoRA."""
    layers = list(weights.parts()["unet"].values())
    wide = [layer for layer in layers if layer.down[0, 0].numel() > 1]
    plain = [layer for layer in layers if layer.down[0, 0].numel() == 1] or wide
    rank, alpha = Counter((layer.rank, layer.alpha) for layer in plain).most_common(1)[0][0]
    arguments: dict[str, str] = {}
    if wide:
        conv_rank, conv_alpha = Counter((layer.rank, layer.alpha) for layer in wide).most_common(1)[0][0]
        arguments |= {"conv_dim": str(conv_rank), "conv_alpha": f"{conv_alpha:g}"}
    dora = any(layer.magnitude is not None for layer in layers)
    if dora:
        arguments |= {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"}
    return {
        "ss_network_module": "lycoris.kohya" if dora else "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps(arguments, sort_keys=True),
    }


def _common_alpha(layers: Mapping[str, LayerWeights]) -> float:
    return Counter(layer.alpha for layer in layers.values()).most_common(1)[0][0]


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}
