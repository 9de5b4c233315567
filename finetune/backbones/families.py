"""Which family a model belongs to, detected from its configuration; unsupported models are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from finetune.errors import ModelError

Family = Literal["sd1", "sd2", "sdxl"]
TEXT_WIDTHS: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text embedding that the published models' cross-attention reads."""
SUPPORTED = "Use a text-to-image or inpainting model of Stable Diffusion 1.x, 2.x or SDXL."


def unsupported(what: str, where: str) -> ModelError:
    """The error for a model of another kind."""
    return ModelError(what, where=where, fix=SUPPORTED)


def damaged(what: str, where: Path | str) -> ModelError:
    """The error for a model, or a part of one, whose files are not what they should be."""
    return ModelError(what, where=str(where), fix="Get the model again.")


def family_of(index: Mapping[str, Any], unet: Mapping[str, Any], where: str) -> Family:
    """The family of a diffusers model.

    SD 1.x and 2.x differ in the width of their text embeddings (768, 1024); models of another width
    (small ones, as in tests) are told apart by SD 2's linear projections in the attention blocks.

    Args:
        index: The content of `model_index.json`.
        unet: The content of `unet/config.json`.
        where: The model's name, for messages.

    Raises:
        ModelError: If it is another kind of model: a refiner, an upscaler, unCLIP, or not a Stable
            Diffusion with a UNet at all.
    """
    channels, latent = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if not (isinstance(channels, int) and isinstance(latent, int)):
        what = f"The UNet's channels are not numbers: {str(channels)[:50]} in, {str(latent)[:50]} out."
        raise damaged(what, where)
    refuse_channels(channels, where, latent)
    if unet.get("class_embed_type") is not None or unet.get("encoder_hid_dim_type") is not None:
        raise unsupported("The UNet takes more than text (unCLIP or image prompts).", where)
    if unet.get("addition_embed_type") == "text_time":
        if not _has(index, "text_encoder"):
            raise unsupported("This is the SDXL refiner; it cannot be trained alone.", where)
        if not _has(index, "text_encoder_2"):
            raise unsupported("This SDXL model lacks its second text encoder.", where)
        return "sdxl"
    if unet.get("addition_embed_type") is not None:
        kind = unet["addition_embed_type"]
        raise unsupported(f"The UNet has an extra embedding {kind!r}, which is not supported.", where)
    width = unet.get("cross_attention_dim")
    if width in (768, 1024):
        return "sd1" if width == 768 else "sd2"
    return "sd2" if unet.get("use_linear_projection") else "sd1"


def refuse_channels(channels: int, where: str, latent: int = 4) -> None:
    """Refuses UNets that take neither noisy latents alone nor those with a mask and a masked picture.

    Args:
        channels: Input channels of the UNet.
        where: The model's name, for the message.
        latent: Channels of a latent and of the UNet's output (published models: 4, the bundled one: 8).

    Raises:
        ModelError: If it is neither a text-to-image nor an inpainting UNet.
    """
    kinds = {8: "an editing model (InstructPix2Pix)", 7: "an upscaler", 5: "a depth model"}
    if channels not in (latent, 2 * latent + 1):
        kind = kinds.get(channels, "another kind of model")
        raise unsupported(f"This is {kind}: its UNet takes {channels} channels, not {latent}.", where)


def refuse_other_pipelines(index: Mapping[str, Any], where: str) -> None:
    """Refuses pipelines that are not Stable Diffusion, from `model_index.json` alone.

    Raises:
        ModelError: If the pipeline has no UNet, VAE or text encoder (SD 3, Flux, Stable Cascade …).
    """
    name = index.get("_class_name", "unknown")
    if not _has(index, "unet"):
        raise unsupported(f"A {name} has no UNet and cannot be trained here.", where)
    parts = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "unet")
    unknown = [p for p in index if not p.startswith("_") and _has(index, p) and p not in parts + _OPTIONAL]
    classes = {part: index[part][1] for part in parts if _has(index, part)}
    expected = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    wrong = [f"{part} is a {classes.get(part)}" for part, cls in expected.items() if classes.get(part) != cls]
    if unknown or wrong:
        details = "; ".join([f"unknown part {part!r}" for part in unknown] + wrong)
        raise unsupported(f"A {name} is not supported ({details}).", where)


_OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder", "watermark")


def _has(index: Mapping[str, Any], part: str) -> bool:
    entry = index.get(part)
    return isinstance(entry, (list, tuple)) and len(entry) == 2 and entry[0] is not None
