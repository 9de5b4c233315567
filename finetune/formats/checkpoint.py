"""A whole model in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from finetune.backbones import Backbone
from finetune.backbones.original import is_published, original_state
from finetune.backbones.planned import Changes
from finetune.backbones.quantize import refuse_quantized
from finetune.formats.tensors import write_planned


def write_checkpoint(
    path: Path,
    backbone: Backbone,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
    changes: Changes | None = None,
) -> None:
    """Writes the model under the original code's key names, as A1111, Forge and ComfyUI load it.

    Args:
        path: The file; it appears whole or not at all.
        backbone: The model; adapters must have been merged or detached.
        metadata: What the file says about how it was made (P7).
        dtype: Of the written weights.
        changes: What differs in the written model.

    Raises:
        WeightsError: If a weight is not finite in this precision; nothing is written then.
        ConfigError: If the model is quantized.
    """
    refuse_quantized(backbone, "A written model")
    state = {name: weight.cast(dtype) for name, weight in original_state(backbone, changes).items()}
    write_planned(path, state, metadata)


def readers(backbone: Backbone, path: Path) -> str:
    """A sentence for the user: which programs load the model from one file."""
    if is_published(backbone):
        return f"A1111, Forge and ComfyUI load it as a checkpoint, this program with --model {path}."
    return (
        "No program can load it: a single file does not say how a model is built, and this one is not built "
        "like a published Stable Diffusion. Write a folder instead."
    )
