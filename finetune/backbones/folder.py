"""Reads a diffusers folder: one subfolder for each part of the pipeline."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel

from finetune.backbones.backbone import Backbone
from finetune.backbones.families import SUPPORTED, damaged, family_of, refuse_other_pipelines
from finetune.backbones.known import FAMILIES
from finetune.backbones.names import numbered
from finetune.backbones.part import check_config, load_part, read_json, unreadable
from finetune.backbones.text_encoders import load_text_encoders
from finetune.backbones.vae import VAE, load_vae
from finetune.config import ModelSection
from finetune.errors import ModelError


def load_folder(path: Path, section: ModelSection) -> Backbone:
    """Loads a backbone from a diffusers folder, each part in the type that its file has it in.

    Args:
        path: The folder that holds `model_index.json`.
        section: The recipe's model, for its name, prediction type and permission to load pickles.

    Raises:
        ModelError: If it is not a model, a part is missing or damaged, or it is another kind of model.
    """
    index, unet_config = _read_configs(path)
    family = family_of(index, unet_config, str(path))
    if section.ema:
        raise ModelError(
            "A diffusers folder has one set of weights; there are no averaged (EMA) ones to choose.",
            where=str(path),
            fix="Leave model.ema out; it is for single-file checkpoints.",
        )
    model = FAMILIES[family]
    count = len(model.encoder_classes)
    notes: list[str] = []

    def part(kind: type[Any], name: str) -> Any:
        return load_part(kind, path / name, section.allow_pickle, notes)

    backbone = model(
        family=family,
        name=section.name,
        unet=part(UNet2DConditionModel, "unet"),
        vae=_vae(path, section, notes),
        text_encoders=_text_encoders(path, section, model.encoder_classes, notes),
        tokenizers=tuple(load_tokenizer(path / name) for name in numbered("tokenizer", count)),
        scheduler=_load_scheduler(index, path / "scheduler", section),
        notes=tuple(notes),  # last: the parts add to them
    )
    return freeze(backbone)


def _text_encoders(
    path: Path, section: ModelSection, kinds: tuple[type[Any], ...], notes: list[str]
) -> tuple[Any, ...]:
    if section.text_encoders is not None:
        return load_text_encoders(section.text_encoders, path, kinds, section.allow_pickle, notes)
    names = numbered("text_encoder", len(kinds))
    return tuple(
        load_part(kind, path / name, section.allow_pickle, notes)
        for kind, name in zip(kinds, names, strict=True)
    )


def _vae(path: Path, section: ModelSection, notes: list[str]) -> Any:
    own = path / VAE
    if section.vae is None:
        if not own.is_dir():
            raise ModelError("This model has no VAE.", where=str(own), fix="Give one with --vae PATH.")
        return load_part(AutoencoderKL, own, section.allow_pickle, notes)
    config = own if (own / "config.json").is_file() else None
    return load_vae(section.vae, config, section.allow_pickle, notes)


def freeze(backbone: Backbone) -> Backbone:
    """Puts all parts into evaluation mode and freezes their weights; returns the backbone."""
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        module.eval().requires_grad_(False)
    return backbone


def _read_configs(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not (path / "model_index.json").is_file():
        inside = sorted(path.glob("*.safetensors"))
        fix = f"To use the checkpoint inside: --model {inside[0]}" if inside else SUPPORTED
        raise ModelError(
            "This folder is not a diffusers model: it has no model_index.json.", where=str(path), fix=fix
        )
    index = read_json(path / "model_index.json")
    refuse_other_pipelines(index, str(path))
    return index, read_json(path / "unet" / "config.json")


def load_tokenizer(folder: Path) -> Any:
    """A tokenizer of a model.

    Raises:
        ModelError: If it cannot be read.
    """
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        if int(tokenizer.model_max_length) < 3:  # beginning, end, and something between
            raise ValueError(f"model_max_length is {tokenizer.model_max_length}")
        return tokenizer
    except Exception as error:
        raise unreadable(folder, error) from error


def _load_scheduler(index: Mapping[str, Any], folder: Path, section: ModelSection) -> Any:
    entry = index.get("scheduler")
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 and entry[0] == "diffusers" else None
    kind: Any = getattr(diffusers, name, None) if isinstance(name, str) else None
    where = str(folder.parent / "model_index.json")
    fix = 'Write it as ["diffusers", "DDIMScheduler"], or get the model again.'
    is_class = isinstance(kind, type)
    if not (is_class and issubclass(kind, diffusers.SchedulerMixin)):
        raise ModelError(
            f"The model's `scheduler` is not a diffusers scheduler: {json.dumps(entry)[:100]}.",
            where=where,
            fix=fix,
        )
    # Those of flow matching, EDM and others have no betas: models made for them are trained differently.
    if "beta_schedule" not in inspect.signature(kind.__init__).parameters:
        what = f"The noise schedule of {kind.__name__} is not Stable Diffusion's."
        raise ModelError(what, where=where, fix=fix)
    file = folder / "scheduler_config.json"
    check_config(kind, file)
    config = read_json(file)
    if section.prediction_type != "auto":
        config["prediction_type"] = section.prediction_type
    try:
        scheduler = kind.from_config(config)
    except Exception as error:  # each scheduler has its own for bad settings
        raise unreadable(file, error) from error
    return checked_scheduler(scheduler, str(folder))


def checked_scheduler(scheduler: Any, where: str) -> Any:
    """Refuses schedulers with an unknown training target or an invalid noise schedule.

    Raises:
        ModelError: If the prediction type is not epsilon, v_prediction or sample, or the share of the signal
            (ᾱ) does not fall from timestep to timestep, between 1 and 0.
    """
    shares = scheduler.alphas_cumprod
    if not (shares[-1] >= 0 and shares[0] <= 1 and bool((shares[1:] < shares[:-1]).all())):
        raise damaged("The betas of the model's scheduler are not a valid noise schedule.", where)
    predicted = scheduler.config.get("prediction_type", "epsilon")
    if predicted not in ("epsilon", "v_prediction", "sample"):
        raise ModelError(
            f"The prediction type {predicted!r} is unknown.",
            where=where,
            fix="Set what the model predicts: --set model.prediction_type=epsilon (or v_prediction, sample).",
        )
    return scheduler
