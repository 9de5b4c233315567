"""Writes LoRA files with the key names of diffusers and PEFT.

diffusers' pipelines load LoRAs only. A LoHa of rank r is a LoRA of rank r², a LoKr one of the product of
its factors' ranks, exactly. Up to rank 64, such a LoRA is written; above it, a file with PEFT's own names,
which `pipe.unet.load_lora_adapter` reads for LoKr (diffusers 0.42).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapters.algorithms.lora import LowRank
from finetune.adapters.lora import LoRA
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.config import LoRASection
from finetune.formats.read import DIFFUSERS_METADATA
from finetune.formats.tensors import write_tensors

MAX_RANK = 64  # of a LoRA that stands for a LoHa or LoKr: a file of the usual size


def write_diffusers(
    path: Path, lora: LoRA, metadata: Mapping[str, str], *, dtype: torch.dtype = torch.float32
) -> bool:
    """Writes a trained LoRA for `pipe.load_lora_weights(folder)`.

    Args:
        path: The file, usually `pytorch_lora_weights.safetensors`; it appears whole or not at all.
        lora: The adapter.
        metadata: How the file was made (`formats.metadata`); `lora_adapter_metadata` is added.
        dtype: Of the weights in the file.

    Returns:
        Whether diffusers' pipelines load the file: all but a large LoHa or LoKr.
    """
    return write_diffusers_weights(path, lora.weights(), lora.section, metadata, dtype)


def write_diffusers_weights(
    path: Path, weights: LoRAWeights, section: LoRASection, metadata: Mapping[str, str], dtype: torch.dtype
) -> bool:
    """As `write_diffusers`, of weights that may come from a file.

    Args:
        path: The file.
        weights: What has been learned.
        section: What it was trained with.
        metadata: How the file was made.
        dtype: Of the weights in the file.
    """
    weights = readable(weights)
    tensors = {name: tensor.to(dtype) for name, tensor in diffusers_tensors(weights).items()}
    settings = adapter_metadata(weights, section)
    write_tensors(path, tensors, {"format": "pt", **metadata, **settings})
    return all(isinstance(layer, LowRank) for layer in weights.layers.values())


def readable(weights: LoRAWeights) -> LoRAWeights:
    """What diffusers reads: a LoHa or LoKr as an equal LoRA, unless that would be too large a file."""
    if max(layer.low_rank_size for layer in weights.layers.values()) > MAX_RANK:
        return weights
    return replace(weights, layers={key: layer.low_rank() for key, layer in weights.layers.items()})


def diffusers_tensors(weights: LoRAWeights) -> dict[str, Tensor]:
    """The content of the file: `lora_A`, `lora_B` and, for DoRA, `lora_magnitude_vector` of each layer.

    The strength alpha/rank is multiplied into `lora_B`, so that the update is simply B·A: readers that
    ignore the metadata (ComfyUI, diffusers before 0.34) assume that alpha is the rank. A LoHa or LoKr has
    PEFT's names, and the strength is multiplied into its first factor.

    Args:
        weights: What has been learned.
    """
    tensors: dict[str, Tensor] = {}
    for key, layer in weights.layers.items():
        tensors |= {".".join((*key, kind)): tensor for kind, tensor in layer.peft(key[0]).items()}
    return tensors


def adapter_metadata(weights: LoRAWeights, section: LoRASection) -> dict[str, str]:
    """PEFT's settings of each part, flat, as JSON: diffusers' `lora_adapter_metadata`.

    Only settings that every PEFT version knows are given, since it rejects unknown ones.

    Args:
        weights: What is in the file.
        section: What it was trained with.
    """
    flat: dict[str, Any] = {}
    for part, layers in weights.parts().items():
        settings = part_settings(part, layers, section)
        flat |= {f"{part}.{setting}": value for setting, value in settings.items()}
    return {DIFFUSERS_METADATA: json.dumps(flat, indent=2, sort_keys=True)}


def part_settings(part: str, layers: Mapping[str, LayerWeights], section: LoRASection) -> dict[str, Any]:
    """PEFT's settings of one part of the model, with alpha equal to the rank.

    Args:
        part: Its name, such as "unet".
        layers: Its layers by name, of one algorithm.
        section: What they were trained with.
    """
    rank = Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]
    others = {f"^{name}": layer.rank for name, layer in sorted(layers.items()) if layer.rank != rank}
    # transformers versions nest text encoders differently; endings match in all of them.
    targets = layers if part == "unet" else {name.rpartition(".")[2] for name in layers}
    config = {"r": rank, "rank_pattern": others, "alpha_pattern": others, "target_modules": sorted(targets)}
    kind = type(next(iter(layers.values())))
    return config | kind.peft_settings(rank, layers.values(), section)
