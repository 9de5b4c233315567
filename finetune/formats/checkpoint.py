"""A whole model in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from finetune.backbones import Backbone
from finetune.backbones.original import is_published, original_state
from finetune.backbones.quantize import refuse_quantized
from finetune.formats.tensors import write_tensors


def write_checkpoint(path: Path, backbone: Backbone, metadata: Mapping[str, str], dtype: torch.dtype) -> None:
    """Writes the model under the original code's key names, as A1111, Forge and ComfyUI load it.

    Args:
        path: The file; it appears whole or not at all.
        backbone: The model; adapters must have been merged or detached.
        metadata: What the file says about how it was made (P7).
        dtype: Of the written weights.

    Raises:
        ConfigError: If the model is quantized.
    """
    refuse_quantized(backbone, "A written model")
    state = {name: tensor.detach().to("cpu", dtype) for name, tensor in original_state(backbone).items()}
    write_tensors(path, state, metadata)


def readers(backbone: Backbone, path: Path) -> str:
    """A sentence for the user: which programs load the model from one file."""
    if is_published(backbone):
        return f"A1111, Forge and ComfyUI load it as a checkpoint, this program with --model {path}."
    return (
        "No program can load it: a single file does not say how a model is built, and this one is not built "
        "like a published Stable Diffusion. Write a folder instead."
    )
