"""Loads a backbone from a folder, a file or the Hub; every fault is reported before long work."""

from __future__ import annotations

import re

import torch

from finetune.backbones.backbone import Backbone
from finetune.backbones.checkpoint import FIRST_CONV, read_header
from finetune.backbones.folder import load_folder
from finetune.backbones.hub import download
from finetune.backbones.memory import move
from finetune.backbones.part import PICKLES
from finetune.backbones.quantize import quantize_unet
from finetune.backbones.resolve import ALIASES, location, place, storybook_folder
from finetune.backbones.single_file import load_single_file
from finetune.config import ModelSection
from finetune.errors import ModelError

_FIX = f"Give a diffusers folder, a .safetensors checkpoint, a Hub id, or one of {', '.join(ALIASES)}."
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_backbone(section: ModelSection) -> Backbone:
    """Loads a pretrained Stable Diffusion, frozen, in fp32 and on the CPU; see `load_stored`."""
    backbone = load_stored(section).to("cpu", torch.float32)
    for module in (backbone.vae, *backbone.text_encoders):
        move(module, "cpu", torch.float32)
    return backbone


def load_stored(section: ModelSection) -> Backbone:
    """Loads a pretrained Stable Diffusion, frozen, in the precision it is stored in and on the CPU.

    Where the libraries can, weights are mapped from their files, and are in memory only once they are used.
    With `section.quantize` the UNet's are rounded at once, so that all that follows sees the same model.
    Before it predicts, `Backbone.to` must say the precision to compute in.

    Args:
        section: Which model, and what may be done to load it. `auto` must have been resolved
            (`resolve_model`), since its meaning depends on the machine.

    Raises:
        ModelError: If there is no such model, or it is damaged, of another kind, or a pickle that the
            user did not allow.
    """
    backbone = _load(section)
    backbone.pieces = section.max_tokens // 75
    quantize_unet(backbone, section.quantize)
    return backbone


def is_model(name: str) -> bool:
    """Whether a name is that of a whole model on this machine, or an alias; nothing is loaded."""
    path = place(name)
    if path.is_file():
        try:
            return FIRST_CONV in read_header(path, allow_pickle=False).shapes
        except ModelError:
            return False
    return (path / "model_index.json").is_file() or name in ALIASES


def _load(section: ModelSection) -> Backbone:
    name = section.name
    if name == "auto":
        raise ValueError("resolve_model first")
    path = place(name)
    if not name.strip():
        raise _unknown(name)
    if name == "storybook" and not path.is_dir():
        raise ModelError(
            "The bundled model is missing from this installation.",
            where=str(storybook_folder()),
            fix="Reinstall finetune, or name another model with --model.",
        )
    if path.is_dir():
        return load_folder(path, section)
    is_checkpoint = path.suffix in (".safetensors", *PICKLES)
    if path.is_file():
        if not is_checkpoint:
            raise ModelError("This file is not a checkpoint.", where=str(path), fix=_FIX)
        return load_single_file(path, section)
    if _HUB_ID.fullmatch(str(location(name))) and not is_checkpoint:
        return load_folder(download(location(name), section), section)
    raise _unknown(name)


def _unknown(name: str) -> ModelError:
    return ModelError(f"There is no model {name!r}.", fix=_FIX)
