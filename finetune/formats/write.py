"""Writes a LoRA that was computed from others, rather than trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from finetune.adapters.weights import LoRAWeights
from finetune.backbones import Backbone
from finetune.config import LoRASection
from finetune.errors import ConfigError
from finetune.files import remove_partials
from finetune.formats.diffusers import write_diffusers_weights
from finetune.formats.hashes import LEGACY, MODEL, SPEC
from finetune.formats.kohya import write_kohya_weights
from finetune.formats.read import DIFFUSERS_METADATA

Layout = Literal["kohya", "diffusers"]
# What describes the tensors of one file, and is not true of another.
OF_THE_TENSORS = (
    *("ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args", DIFFUSERS_METADATA),
    *("format", MODEL, LEGACY, SPEC),
)


def write_lora(
    path: Path,
    weights: LoRAWeights,
    backbone: Backbone,
    metadata: Mapping[str, str],
    *,
    layout: Layout = "kohya",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes plain LoRAs of layers, with the new words that belong to them, as one file.

    Args:
        path: The file; it appears whole or not at all.
        weights: Layers without DoRA magnitudes; of the UNet, of text encoders or both.
        backbone: The model, for the names; values are not used.
        metadata: How the file was made; what describes the tensors (rank, alpha …) is replaced.
        layout: Whose key names: kohya's (A1111, Forge, ComfyUI, InvokeAI, diffusers) or diffusers'.
        dtype: Of the weights in the file.

    Raises:
        ConfigError: If there are new words, for which diffusers' layout has no place.
        WeightsError: If a weight is not finite in this precision; nothing is written then.
    """
    kept, section = own_metadata(metadata), LoRASection()
    remove_partials(path.parent)
    if layout == "kohya":
        write_kohya_weights(path, weights, backbone, section, kept, dtype)
        return
    if weights.words:
        raise ConfigError(
            f"A LoRA file with diffusers' names cannot hold a new word ({weights.words[0].text}).",
            where=str(path),
            fix="Write kohya's names instead.",
        )
    write_diffusers_weights(path, weights, section, kept, dtype)


def own_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file's metadata say that stays true of the same weights in another file."""
    return {key: value for key, value in metadata.items() if key not in OF_THE_TENSORS}
