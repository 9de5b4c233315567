"""Loads single-file checkpoints (the original code's key names) without any download.

diffusers converts the weights; what a checkpoint does not contain – configurations, tokenizers – ships
with this package in `published/`.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from finetune.backbones.backbone import Backbone
from finetune.backbones.checkpoint import (
    Header,
    family_of_checkpoint,
    has_average,
    has_text_encoder,
    has_vae,
    input_channels,
    read_header,
    stated_prediction,
)
from finetune.backbones.clip_vocabulary import clip_tokenizers
from finetune.backbones.families import Family
from finetune.backbones.folder import checked_scheduler, freeze
from finetune.backbones.known import FAMILIES
from finetune.backbones.memory import computing_in
from finetune.backbones.names import numbered
from finetune.backbones.part import check_complete_module, check_finite, unreadable
from finetune.backbones.quiet import quiet
from finetune.backbones.text_encoders import load_text_encoders
from finetune.backbones.vae import VAE, load_vae
from finetune.config import ModelSection
from finetune.errors import ModelError


def load_single_file(path: Path, section: ModelSection) -> Backbone:
    """Loads a backbone from one `.safetensors` file (or, if allowed, a `.ckpt`), in the type it is stored in.

    Args:
        path: The checkpoint.
        section: The recipe's model, for its name, prediction type and permission to load pickles.

    Raises:
        ModelError: If the file is damaged, incomplete, or another kind of model.
    """
    header = read_header(path, section.allow_pickle, ema=section.ema)
    family = family_of_checkpoint(header, str(path))
    with as_file(files("finetune.backbones").joinpath("published", family)) as configs:
        tokenizers = clip_tokenizers(family)
        backbone = convert(path, family, configs, tokenizers, section, header)
    settle_prediction(backbone, path, header, section)
    return backbone


def convert(
    path: Path,
    family: Family,
    configs: Path,
    tokenizers: tuple[Any, ...],
    section: ModelSection,
    header: Header,
) -> Backbone:
    """Loads a checkpoint as a model of known structure.

    Args:
        path: The checkpoint.
        family: Its family.
        configs: A diffusers folder whose configurations describe the parts of the family's text-to-image
            model.
        tokenizers: One for each text encoder.
        section: The recipe's model, for its name, VAE, text encoders, and whether to take averaged weights.
        header: What the checkpoint holds.

    Raises:
        ModelError: If the weights do not fit the structure, or there is no VAE, no text encoder, or no
            averaged weights as they are wanted.
    """
    model = FAMILIES[family]
    count = len(model.encoder_classes)
    given: dict[str, Any] = dict(zip(numbered("tokenizer", count), tokenizers, strict=True))
    if "safety_checker" in model.pipeline_options:
        given["safety_checker"] = None
    notes = _average_notes(header, path, section)
    if section.vae is not None:
        given["vae"] = load_vae(section.vae, configs / VAE, section.allow_pickle, notes)
    elif not has_vae(header):
        raise ModelError("This checkpoint has no VAE.", where=str(path), fix="Give one with --vae PATH.")
    if section.text_encoders is not None:
        encoders = load_text_encoders(
            section.text_encoders, configs, model.encoder_classes, section.allow_pickle, notes
        )
        given |= dict(zip(numbered("text_encoder", count), encoders, strict=True))
    elif not has_text_encoder(header):
        raise ModelError(
            "This checkpoint has no text encoder.",
            where=str(path),
            fix="Give a model of the same family that has one with --set model.text_encoders=FOLDER.",
        )
    how = {"config": str(configs), "local_files_only": True, "torch_dtype": header.dtype}
    try:
        with quiet():
            channels = input_channels(header)
            if channels != 4 or section.ema:  # else the pipeline loads it, as configured
                given["unet"] = UNet2DConditionModel.from_single_file(
                    str(path), subfolder="unet", in_channels=channels, extract_ema=section.ema, **how
                )
            pipe: Any = model.pipeline_class.from_single_file(str(path), **how, **given)
    except Exception as error:  # whatever the conversion stumbles over: the file is not what it seems
        raise unreadable(path, error) from error
    encoders = tuple(getattr(pipe, part) for part in numbered("text_encoder", count))
    for module in (pipe.unet, pipe.vae, *encoders):
        check_complete_module(module, path)
        check_finite(module, str(path))
    parts = (pipe.unet, pipe.vae, encoders, tokenizers, pipe.scheduler)
    return freeze(model(family, section.name, *parts, notes=tuple(notes)))


def _average_notes(header: Header, path: Path, section: ModelSection) -> list[str]:
    if not has_average(header, str(path), wanted=section.ema):
        return []
    if section.ema:
        return ["The averaged (EMA) weights of the UNet are used (model.ema)."]
    return ["The regular weights are used; the file also has averaged (EMA) ones (--set model.ema=true)."]


def settle_prediction(backbone: Backbone, path: Path, header: Header, section: ModelSection) -> None:
    """Sets the scheduler's prediction type: the user's, the file's, or what a test of the UNet shows.

    SD 2.x was published with either type under the same keys, so an SD 2.x file that does not say it is
    tested. Other such files predict noise, as their published models do. Unless the user set the type,
    the notes say what it is and why.
    """
    said = stated_prediction(path, header)
    predicted, source = "epsilon", "its family, as the file does not say"
    if section.prediction_type != "auto":
        predicted, source = section.prediction_type, ""
    elif said:
        predicted, source = said
    elif len(backbone.published_predictions) > 1:
        predicted, source = probe_prediction(backbone), "a test of the UNet on pure noise"
    changes: dict[str, Any] = {"prediction_type": predicted}
    if "ztsnr" in header.shapes:
        changes["rescale_betas_zero_snr"] = True
    backbone.scheduler = type(backbone.scheduler).from_config(backbone.scheduler.config, **changes)
    checked_scheduler(backbone.scheduler, str(path))
    if len(backbone.published_predictions) > 1 and predicted == "epsilon":
        # The published SD 2.x that predicts noise is the 512-pixel base model.
        backbone.unet.register_to_config(sample_size=64)
    if source:
        note = f"The UNet predicts {predicted}, according to {source}"
        backbone.notes += (f"{note} (to change it: --set model.prediction_type=…).",)


@torch.no_grad()
def probe_prediction(backbone: Backbone) -> str:
    """Finds out what a UNet predicts from its output for pure noise at the last timestep.

    There the noise is almost equal to the input, so one that predicts noise returns its input
    (correlation near 1); one that predicts velocity returns about minus the clean picture, which the
    input does not contain (correlation near 0).

    Returns:
        `epsilon` or `v_prediction`.
    """
    # 32 x 32 latents are as conclusive as larger ones, and take seconds on a CPU.
    shape = (1, backbone.latent_channels, *[min(32, int(backbone.unet.config.sample_size))] * 2)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    last = torch.full((1,), int(backbone.scheduler.config.num_train_timesteps) - 1)
    with computing_in(torch.float32, [backbone.unet]):
        answer = backbone.predict(noise, last, backbone.conditioning([""]))
    correlation = torch.corrcoef(torch.stack([noise.flatten(), answer.float().flatten()]))[0, 1]
    return "epsilon" if correlation > 0.5 else "v_prediction"
