"""Which pretrained model is meant: the one named, or the one that a LoRA or ControlNet was made for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from finetune.backbones import resolve_model
from finetune.backbones.controlnet import WEIGHTS, find_branch
from finetune.config import ModelSection
from finetune.config.forms import Kind
from finetune.errors import ConfigError, UserError
from finetune.formats import find_lora
from finetune.formats.peft_folder import adapter_folders
from finetune.recipes.plain_yaml import parse_yaml


def resolved(section: ModelSection) -> tuple[ModelSection, str]:
    """The section with aliases and `auto` replaced by what they mean here, and a sentence for the user."""
    name, sentence = resolve_model(section, torch.cuda.is_available())
    return section.model_copy(update={"name": name}), sentence


def choose_model(
    given: ModelSection,
    loras: Sequence[Path] = (),
    embeddings: Sequence[Path] = (),
    controlnets: Sequence[Path] = (),
) -> tuple[ModelSection, str]:
    """The model to sample from.

    Args:
        given: What the user set; the rest comes from what decides.
        loras: Run folders or LoRA files; without a name, the first that says its model decides.
        embeddings: Run folders or files of new words, which decide after the LoRAs.
        controlnets: Run folders or diffusers folders, which decide after those.

    Returns:
        The resolved section, and a sentence for the user: which model it is, and why.

    Raises:
        WeightsError: If there is no LoRA or ControlNet at one of the paths; raised before a model is loaded.
    """
    for lora in loras:
        find_lora(lora)
    for controlnet in controlnets:
        find_branch(controlnet)
    for made in () if "name" in given.model_fields_set else (*loras, *embeddings, *controlnets):
        if section := model_of(made):
            changes = given.model_dump(exclude_unset=True)
            section, sentence = resolved(section.model_copy(update=changes))
            return section, f"{sentence.rstrip('.')}, because {made} was made for it."
    return resolved(given)


def model_for(given: ModelSection, kind: Kind, made: Path) -> tuple[ModelSection, str]:
    """The model that something was made for; of a whole model, itself.

    Args:
        given: What the user set.
        kind: What was made.
        made: Where it is.

    Raises:
        ConfigError: If it is a model, and another one is named beside it.
        WeightsError: As `choose_model`.
    """
    if kind == "lora":
        return choose_model(given, loras=[made])
    if kind == "controlnet":
        return choose_model(given, controlnets=[made])
    if kind == "embedding":
        return choose_model(given, embeddings=[made])
    if "name" in given.model_fields_set:
        raise ConfigError(
            "--model has no effect: this is a whole model itself.", where=str(made), fix="Leave --model out."
        )
    return resolved(given.model_copy(update={"name": str(made)}))


def model_of(made: Path) -> ModelSection | None:
    """The model that a run folder, a LoRA file or a ControlNet says it was made for; None if nothing."""
    values = _recipe(made).get("model")
    if not isinstance(values, dict):
        return None
    known = {name: value for name, value in values.items() if name in ModelSection.model_fields}
    # Whether a pickle may be loaded is for the user of this machine to say (P6), not for a file.
    known.pop("allow_pickle", None)
    known.pop("quantize", None)  # how it is held is no part of which model it is
    try:
        return ModelSection(**known)
    except ValueError:
        return None


def _recipe(made: Path) -> dict[str, Any]:
    """The recipe in a run folder or in a file's metadata; empty where there is none to read."""
    weights = made / WEIGHTS if (made / WEIGHTS).is_file() else made
    try:
        if made.is_dir() and adapter_folders(made):
            weights = find_lora(made)
        if weights.is_dir():
            content = parse_yaml((made / "recipe.yaml").read_text(encoding="utf-8"), str(made))
        else:
            with safe_open(weights, framework="pt") as file:
                content = json.loads((file.metadata() or {}).get("finetune.recipe", "{}"))
    except (OSError, ValueError, SafetensorError, UserError):
        return {}  # whoever reads the weights says what is wrong with them
    return content if isinstance(content, dict) else {}
