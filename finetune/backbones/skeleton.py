"""A model's structure without its weights: enough to read, change and write files made for it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from finetune.backbones.backbone import Backbone
from finetune.backbones.checkpoint import family_of_checkpoint, input_channels, read_header
from finetune.backbones.families import Family, family_of, refuse_other_pipelines
from finetune.backbones.known import FAMILIES
from finetune.backbones.names import numbered
from finetune.backbones.part import read_json, unreadable
from finetune.backbones.quiet import quiet
from finetune.backbones.resolve import PUBLISHED, place, published_family
from finetune.config import ModelSection


def skeleton(section: ModelSection) -> Backbone | None:
    """A model on the meta device: all modules with their names and shapes, but without values.

    Nothing is downloaded and no weights are read. It has no tokenizers and no scheduler.

    Args:
        section: The model, its name resolved.

    Returns:
        The structure; None if the model is not on this machine and is none of the published ones.

    Raises:
        ModelError: If there is something by that name that is not a supported model.
    """
    path = place(section.name)
    if path.is_file():
        header = read_header(path, section.allow_pickle)
        family = family_of_checkpoint(header, str(path))
        return published_skeleton(family, section.name, {"in_channels": input_channels(header)})
    if path.is_dir():
        index, unet = read_json(path / "model_index.json"), read_json(path / "unet" / "config.json")
        refuse_other_pipelines(index, str(path))
        return _built(family_of(index, unet, str(path)), path, section.name, {})
    published = published_family(section.name)
    return published_skeleton(published, section.name) if published else None


def published_skeleton(
    family: Family, name: str | None = None, changes: Mapping[str, Any] | None = None
) -> Backbone:
    """The structure of the published model of a family, on the meta device.

    Args:
        family: The family.
        name: What the model is called in messages; the alias of the published one if None.
        changes: What differs in the UNet's configuration.
    """
    alias = next(alias for alias, own in PUBLISHED.items() if own == family)
    with as_file(files("finetune.backbones").joinpath("published", family)) as folder:
        return _built(family, folder, name or alias, changes or {})


def _built(family: Family, folder: Path, name: str, changes: Mapping[str, Any]) -> Backbone:
    """The modules that the configurations in a diffusers folder describe."""
    model = FAMILIES[family]
    parts = ("unet", "vae", *numbered("text_encoder", len(model.encoder_classes)))
    unet, vae, *texts = (read_json(folder / part / "config.json") for part in parts)
    try:
        with quiet(), torch.device("meta"):
            encoders = tuple(
                kind(kind.config_class.from_dict(config))
                for kind, config in zip(model.encoder_classes, texts, strict=True)
            )
            made = UNet2DConditionModel.from_config({**unet, **changes}), AutoencoderKL.from_config(vae)
    except Exception as error:  # settings that make no model; each class has its own errors for them
        raise unreadable(folder, error) from error
    return model(family, name, *made, encoders, (), None)
