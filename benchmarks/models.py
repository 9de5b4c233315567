"""Stable Diffusion models of full size and true structure, with random weights: for speed and memory."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig

from finetune.backbones.backbone import Backbone
from finetune.backbones.clip_vocabulary import clip_tokenizers
from finetune.backbones.families import Family
from finetune.backbones.folder import freeze
from finetune.backbones.known import FAMILIES
from finetune.backbones.names import numbered
from finetune.backbones.saving import save_folder
from finetune.files import whole_folder


def random_model(family: Family, place: Path, device: str) -> Path:
    """Writes a model with the published configuration and random weights as an fp16 diffusers folder.

    Args:
        family: Whose configuration.
        place: Where the folder goes; an existing one is reused.
        device: Where the weights are drawn; a GPU takes seconds.

    Returns:
        The folder.
    """
    folder = place / family
    if folder.exists():
        return folder
    with as_file(files("finetune.backbones").joinpath("published", family)) as configs, torch.device(device):
        backbone = _drawn(family, configs)
    with whole_folder(folder) as aside:
        save_folder(backbone.to("cpu"), aside, torch.float16)
    return folder


def _drawn(family: Family, configs: Path) -> Backbone:
    kinds = FAMILIES[family].encoder_classes
    encoders = tuple(
        kind(CLIPTextConfig.from_pretrained(configs / name))
        for kind, name in zip(kinds, numbered("text_encoder", len(kinds)), strict=True)
    )
    scheduler = _scheduler(configs / "scheduler")
    unet, vae = (_part(kind, configs / name) for kind, name in _PARTS)
    name, tokenizers = f"random {family}", clip_tokenizers(family)
    backbone = FAMILIES[family](family, name, unet, vae, encoders, tokenizers, scheduler)
    freeze(backbone)
    return backbone


_PARTS: tuple[tuple[Any, str], ...] = ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))


def _part(kind: Any, configs: Path) -> Any:
    return kind.from_config(kind.load_config(configs))


def _scheduler(configs: Path) -> Any:
    config = diffusers.DDIMScheduler.load_config(configs)
    return getattr(diffusers, config["_class_name"]).from_config(config)
