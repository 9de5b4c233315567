"""Writes LoRA files with the key names of diffusers and PEFT."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapters.lora import LoRA
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.formats.read import DIFFUSERS_METADATA
from finetune.formats.tensors import write_tensors


def write_diffusers(
    path: Path, lora: LoRA, metadata: Mapping[str, str], *, dtype: torch.dtype = torch.float32
) -> None:
    """Writes a trained LoRA for `pipe.load_lora_weights(folder)`.

    Args:
        path: The file, usually `pytorch_lora_weights.safetensors`; it appears whole or not at all.
        lora: The adapter.
        metadata: How the file was made (`formats.metadata`); `lora_adapter_metadata` is added.
        dtype: Of the weights in the file.
    """
    weights = lora.weights()
    tensors = {name: tensor.to(dtype) for name, tensor in diffusers_tensors(weights).items()}
    write_tensors(path, tensors, {"format": "pt", **metadata, **adapter_metadata(weights)})


def diffusers_tensors(weights: LoRAWeights) -> dict[str, Tensor]:
    """The content of the file: `lora_A`, `lora_B` and, for DoRA, `lora_magnitude_vector` of each layer.

    The strength alpha/rank is multiplied into `lora_B`, so that the update is simply B·A: readers
    that know no metadata (ComfyUI, diffusers before 0.34) take alpha for the rank.

    Args:
        weights: What has been learned.
    """
    tensors: dict[str, Tensor] = {}
    for key, layer in weights.layers.items():
        name = ".".join(key)
        tensors[f"{name}.lora_A.weight"] = layer.down
        tensors[f"{name}.lora_B.weight"] = layer.up * layer.scale
        if layer.magnitude is not None:
            convolution = layer.down.ndim == 4
            magnitude = layer.magnitude.view(1, -1, 1, 1) if convolution else layer.magnitude
            # diffusers hands text encoders to transformers, which from version 5 wants the whole name.
            ending = "" if key[0] == "unet" else ".weight"
            tensors[f"{name}.lora_magnitude_vector{ending}"] = magnitude
    return tensors


def adapter_metadata(weights: LoRAWeights) -> dict[str, str]:
    """PEFT's settings of each part, flat, as JSON: diffusers' `lora_adapter_metadata`.

    Only settings that every PEFT knows are given, for it refuses unknown ones.
    """
    flat: dict[str, Any] = {}
    for part, layers in weights.parts().items():
        flat |= {f"{part}.{setting}": value for setting, value in _config(part, layers).items()}
    return {DIFFUSERS_METADATA: json.dumps(flat, indent=2, sort_keys=True)}


def _config(part: str, layers: Mapping[str, LayerWeights]) -> dict[str, Any]:
    rank = Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]
    others = {f"^{name}": layer.rank for name, layer in sorted(layers.items()) if layer.rank != rank}
    # Text encoders are nested differently from one transformers to the next; endings fit all of them.
    targets = layers if part == "unet" else {name.rpartition(".")[2] for name in layers}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(targets),
        "use_dora": any(layer.magnitude is not None for layer in layers.values()),
    }
