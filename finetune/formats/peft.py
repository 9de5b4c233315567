"""Writes a LoRA, LoHa or LoKr as PEFT's own adapter folders, one for each part of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapters.algorithms import update_class
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.names import live_text_name
from finetune.config import LoRASection
from finetune.formats.diffusers import part_settings
from finetune.formats.peft_folder import PREFIX, WEIGHTS
from finetune.formats.tensors import write_tensors


def write_peft(
    folder: Path,
    weights: LoRAWeights,
    backbone: Backbone,
    section: LoRASection,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes `unet/`, `text_encoder/` …, each for `PeftModel.from_pretrained(part, folder / name)`.

    Args:
        folder: An existing folder; wrap in `whole_folder` for all or nothing.
        weights: What has been learned; all layers of a part have one algorithm.
        backbone: The model, for the names.
        section: What it was trained with.
        metadata: How it was made (P7).
        dtype: Of the weights in the files.
    """
    roots = backbone.module_roots()
    for part, named in weights.parts().items():
        # As the installed transformers names them: PEFT does not translate those of another version.
        text = part.startswith("text_encoder")
        layers = {live_text_name(roots[part], name) if text else name: named[name] for name in named}
        place = folder / part
        place.mkdir()
        config: Any = update_class(next(iter(layers.values())).algorithm).config
        settings = part_settings(part, layers, section)
        config(**settings, inference_mode=True).save_pretrained(place)
        write_tensors(place / WEIGHTS, _tensors(part, layers, dtype), {"format": "pt", **metadata})


def _tensors(part: str, layers: Mapping[str, LayerWeights], dtype: torch.dtype) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, layer in layers.items():
        # The strength is multiplied in, as in diffusers' layout, so that alpha is the rank.
        named |= {f"{PREFIX}{name}.{kind}": tensor.to(dtype) for kind, tensor in layer.peft(part).items()}
    return named
