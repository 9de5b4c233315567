"""Reads a diffusers folder: one subfolder for each part of the pipeline."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from torch import nn

from finetune.backbones.backbone import Backbone
from finetune.backbones.families import SUPPORTED, damaged, family_of, refuse_other_pipelines
from finetune.backbones.finite import integer_weight, is_finite
from finetune.backbones.known import FAMILIES
from finetune.backbones.names import numbered
from finetune.backbones.precision import stored_dtype
from finetune.backbones.quiet import quiet
from finetune.config import ModelSection
from finetune.errors import ModelError, OutOfMemory, UserError, memory_ran_out
from finetune.kernels import release_mapped

PICKLES = (".bin", ".ckpt", ".pt", ".pth")


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
    model = FAMILIES[family]
    count = len(model.encoder_classes)
    notes: list[str] = []

    def part(kind: type[Any], name: str) -> Any:
        return load_part(kind, path / name, section.allow_pickle, notes)

    backbone = model(
        family=family,
        name=section.name,
        unet=part(UNet2DConditionModel, "unet"),
        vae=part(AutoencoderKL, "vae"),
        text_encoders=tuple(map(part, model.encoder_classes, numbered("text_encoder", count))),
        tokenizers=tuple(load_tokenizer(path / name) for name in numbered("tokenizer", count)),
        scheduler=_load_scheduler(index, path / "scheduler", section),
        notes=tuple(notes),  # last: the parts add to them
    )
    return freeze(backbone)


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


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        ModelError: If there is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(file, error) from error
    if not isinstance(content, dict):
        raise unreadable(file, TypeError("not a JSON object"))
    return content


def unreadable(where: Path, error: Exception) -> UserError:
    """The error for a model, or a part of one, that a library cannot load."""
    if memory_ran_out(error):
        return OutOfMemory(str(where))
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return damaged(f"The model cannot be read: {reason.rstrip('.')}.", where)


def _weights_variant(folder: Path, stem: str, allow_pickle: bool) -> tuple[str | None, bool]:
    """Which precision variant of a part to load, and whether as safetensors."""
    if not folder.is_dir():
        raise damaged("A part of the model is missing.", folder)
    for suffix in (".safetensors", ".safetensors.index.json"):
        for variant in (None, "fp32", "fp16", "bf16"):
            infix = f".{variant}" if variant else ""
            sharded = suffix.endswith("index.json") and variant  # model.safetensors.index.fp16.json
            name = f"{stem}.safetensors.index.{variant}.json" if sharded else f"{stem}{infix}{suffix}"
            if (folder / name).is_file():
                return variant, True
    pickles = sorted(f for f in folder.iterdir() if f.suffix in PICKLES)
    if not pickles:
        raise damaged("A part of the model has no weights.", folder)
    if not allow_pickle:
        raise pickle_refused(pickles[0])
    variant = next((v for v in ("fp32", "fp16", "bf16") if pickles[0].name.endswith(f".{v}.bin")), None)
    return variant, False


def pickle_refused(file: Path) -> ModelError:
    """The error for weights in a pickle, which are only loaded if the user allows it (promise P6)."""
    return ModelError(
        "These weights are a pickle file, which is only loaded with your explicit permission.",
        where=str(file),
        fix="Get the .safetensors version, or allow this one with --set model.allow_pickle=true (only "
        "weights are read, no code).",
    )


def load_part(kind: type[Any], folder: Path, allow_pickle: bool, notes: list[str]) -> Any:
    """Loads one part of a model in the type that its file has it in.

    Args:
        kind: Its class in diffusers or transformers.
        folder: Where its configuration and weights are.
        allow_pickle: Whether the user allows weights in a pickle.
        notes: Gets a line about unexpected keys, whose weights are not used.

    Raises:
        ModelError: If the part is missing, damaged, incomplete, not finite, or a pickle without permission.
    """
    stem = "diffusion_pytorch_model" if issubclass(kind, diffusers.ModelMixin) else "model"
    variant, safe = _weights_variant(folder, stem, allow_pickle)
    if stem != "model":
        _check_config(kind, folder / "config.json")
    try:
        dtype = _dtype_of(folder) if safe else torch.float32
        with quiet():
            module, info = kind.from_pretrained(
                str(folder),
                variant=variant,
                use_safetensors=safe,
                torch_dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # any fault of the files: each library has its own types for them
        raise unreadable(folder, error) from error
    check_complete(info, folder, notes)
    check_finite(module, str(folder))
    return module


def _dtype_of(folder: Path) -> torch.dtype:
    types: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            if integers := integer_weight(opened):
                raise TypeError(f"weights must be floating-point numbers, but {integers}")
            types |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    return stored_dtype(types)


def _check_config(kind: type[Any], file: Path) -> None:
    """Refuses settings that are not numbers but should be; diffusers would fail only when it uses them."""
    config = read_json(file)
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        number = type(parameter.default) in (int, float) and "uple" not in str(parameter.annotation)
        if number and isinstance(config.get(name), (str, list, dict)):
            raise unreadable(file, TypeError(f"{name} is {json.dumps(config[name])[:100]}, not a number"))


def check_complete(info: Mapping[str, Any], folder: Path, notes: list[str]) -> None:
    """Refuses a part with missing weights, which the libraries would fill with random ones.

    Raises:
        ModelError: If weights are missing or have the wrong shape.
    """
    bad = [*info.get("missing_keys", ()), *(k[0] for k in info.get("mismatched_keys", ()))]
    if bad:
        names = ", ".join(sorted(map(str, bad))[:3])
        raise damaged(f"{len(bad)} weights are missing or have the wrong shape ({names} …).", folder)
    if unexpected := sorted(map(str, info.get("unexpected_keys", ()))):
        notes.append(f"{folder.name}: {len(unexpected)} weights of the file are not used ({unexpected[0]} …)")


def check_finite(module: nn.Module, where: str) -> None:
    """Refuses weights that would make every picture NaN.

    Raises:
        ModelError: Naming the first.
    """
    for name, weight in module.state_dict().items():
        if not is_finite(weight):
            raise damaged(f"A weight of the model is NaN or infinite: {name}.", where)
        release_mapped(weight)


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
    _check_config(kind, file)
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
