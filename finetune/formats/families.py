"""What other programs call the families, and which one a LoRA file seems to be made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from finetune.backbones.families import TEXT_WIDTHS, Family


@dataclass(frozen=True)
class FamilyNames:
    """A family's names in the metadata of files.

    Attributes:
        title: The name in messages.
        base_version: kohya's `ss_base_model_version`, for epsilon- and for v-prediction.
        architecture: `modelspec.architecture`, for epsilon- and for v-prediction.
        implementation: `modelspec.implementation` as sd-scripts writes it for a LoRA.
    """

    title: str
    base_version: tuple[str, str]
    architecture: tuple[str, str]
    implementation: str


SGM = "https://github.com/Stability-AI/generative-models"
FAMILY_NAMES: Mapping[Family, FamilyNames] = {
    "sd1": FamilyNames("SD 1.x", ("sd_v1", "sd_v1_v"), ("stable-diffusion-v1",) * 2, "diffusers"),
    "sd2": FamilyNames(
        "SD 2.x",
        ("sd_v2", "sd_v2_v"),
        ("stable-diffusion-v2-512", "stable-diffusion-v2-768-v"),
        "diffusers",
    ),
    "sdxl": FamilyNames("SDXL", ("sdxl_base_v1-0",) * 2, ("stable-diffusion-xl-v1-base",) * 2, SGM),
}
# By what a key contains; the first match counts.
KEY_SIGNS = {
    "double_blocks": "Flux",
    "single_transformer_blocks": "Flux",
    "joint_blocks": "SD 3",
    "joint_transformer_blocks": "SD 3",
    "lora_transformer": "another transformer model",
    "transformer.transformer_blocks": "another transformer model",
    "lora_te2_": "SDXL",
    "lora_te1_": "SDXL",
    "text_encoder_2.": "SDXL",
}
TITLES = {width: FAMILY_NAMES[family].title for width, family in TEXT_WIDTHS.items()}
"""A family's name in messages by the width of the texts that its models read."""


def made_for(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str | None:
    """Which family a LoRA file seems to be made for: by its metadata, its keys, its widths.

    Args:
        tensors: The content of the file.
        metadata: Its metadata.

    Returns:
        Its name in messages, or None if nothing shows it.
    """
    version = metadata.get("ss_base_model_version", "")
    architecture = metadata.get("modelspec.architecture", "").split("/")[0]
    for names in FAMILY_NAMES.values():
        if version in names.base_version or architecture in names.architecture:
            return names.title
    if version or architecture:
        return version or architecture
    for sign, title in KEY_SIGNS.items():
        if any(sign in key for key in tensors):
            return title
    widths = [
        tensor.shape[1]
        for key, tensor in tensors.items()
        if "attn2" in key and "to_k" in key and ("down" in key or "lora_A" in key) and tensor.ndim > 1
    ]
    return next((TITLES[width] for width in widths if width in TITLES), None)
