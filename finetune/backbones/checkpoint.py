"""What a single-file checkpoint is, detected from keys and shapes before its weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open

from finetune.backbones.families import SUPPORTED, TEXT_WIDTHS, Family, refuse_channels, unsupported
from finetune.backbones.finite import integer_weight
from finetune.backbones.kinds import kind_of
from finetune.backbones.part import PICKLES, pickle_refused
from finetune.backbones.precision import stored_dtype
from finetune.errors import ModelError, OutOfMemory, memory_ran_out

UNET = "model.diffusion_model."
# What a model is loaded from; a file may also hold an average of its weights, or its noise schedule.
_PARTS = (UNET, "first_stage_model.", "cond_stage_model.", "conditioner.")
_AVERAGE = "model_ema."
_TEXT_ENCODERS = (
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.model.",
    "conditioner.embedders.1.model.",
)
FIRST_CONV = f"{UNET}input_blocks.0.0.weight"


@dataclass(frozen=True)
class Header:
    """Keys, shapes and metadata of a checkpoint file.

    Attributes:
        shapes: The shape of each tensor.
        metadata: The text metadata of a safetensors file; empty for others.
        dtype: The type to load the weights in.
    """

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    dtype: torch.dtype = torch.float32


def read_header(file: Path, allow_pickle: bool, *, ema: bool = False) -> Header:
    """Reads names and shapes without the weights.

    Args:
        file: A `.safetensors` file, or a pickle if that is allowed.
        allow_pickle: The user's explicit permission; even then only weights are unpickled, no code.
        ema: Whether averaged weights are to be loaded, so that their type counts too.

    Raises:
        ModelError: If the file cannot be read or is a pickle without permission.
    """
    parts = (*_PARTS, _AVERAGE) if ema else _PARTS
    if file.suffix in PICKLES:
        if not allow_pickle:
            raise pickle_refused(file)
        return Header({k: tuple(v.shape) for k, v in _unpickle(file).items()}, {})
    try:
        with safe_open(str(file), framework="pt") as opened:
            # get_slice reads a shape from the header; nothing else of the file is touched.
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            types = {opened.get_slice(key).get_dtype() for key in shapes if key.startswith(parts)}
            metadata, integers = opened.metadata() or {}, integer_weight(opened)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"This file is not a safetensors checkpoint, or is truncated ({error}).",
            where=str(file),
            fix="Get the file again; a .ckpt file must keep its extension.",
        ) from error
    if integers:
        raise ModelError(
            f"Weights must be floating-point numbers, but {integers}.",
            where=str(file),
            fix="Get the file in fp16, bf16 or fp32.",
        )
    return Header(shapes, metadata, stored_dtype(types))


def _unpickle(file: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        weights = content.get("state_dict", content)
        return {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # of zip, pickle and torch, or the content is something else
        if memory_ran_out(error):
            raise OutOfMemory(str(file)) from error
        raise ModelError(
            f"This checkpoint cannot be read as plain weights ({type(error).__name__}).",
            where=str(file),
            fix="Get the .safetensors version of the model.",
        ) from error


def family_of_checkpoint(header: Header, where: str) -> Family:
    """The family, detected from the text encoders' keys.

    Raises:
        ModelError: If it is not a whole text-to-image or inpainting model of a known family.
    """
    shapes = header.shapes
    if FIRST_CONV not in shapes:
        if (kind := kind_of(shapes)) and kind.what != "a whole model":
            what = f"This file holds {kind.what}, not a whole model of Stable Diffusion."
            raise ModelError(what, where=where, fix=kind.use or SUPPORTED)
        raise unsupported("This file is not a Stable Diffusion checkpoint.", where)
    refuse_channels(input_channels(header), where)
    if _any(shapes, "conditioner.embedders.1.model."):
        return "sdxl"
    if _any(shapes, "conditioner.embedders.0.model."):
        raise unsupported("This is the SDXL refiner; it cannot be trained alone.", where)
    if not has_text_encoder(header):
        return _family_of_unet(header, where)
    if f"{UNET}label_emb.0.0.weight" in shapes:
        raise unsupported("The UNet takes more than text (unCLIP).", where)
    return "sd2" if _any(shapes, "cond_stage_model.model.") else "sd1"


def _family_of_unet(header: Header, where: str) -> Family:
    """The family by the width of the texts that the UNet attends to."""
    widths = {shape[1] for key, shape in header.shapes.items() if key.endswith("attn2.to_k.weight")}
    family = TEXT_WIDTHS.get(widths.pop()) if len(widths) == 1 else None
    if family is None:
        raise unsupported("This checkpoint has no known text encoder.", where)
    return family


def has_text_encoder(header: Header) -> bool:
    """Whether a checkpoint has the text encoders of a known family."""
    return any(_any(header.shapes, start) for start in _TEXT_ENCODERS)


def has_vae(header: Header) -> bool:
    """Whether a checkpoint has a VAE."""
    return _any(header.shapes, "first_stage_model.")


def has_average(header: Header, where: str, *, wanted: bool) -> bool:
    """Whether a checkpoint has an average (EMA) of the UNet's weights too.

    Its names are those of the weights without "model." and without dots.

    Args:
        header: What the checkpoint holds.
        where: The file, for the message.
        wanted: Whether the user asked for them.

    Raises:
        ModelError: If they are wanted, and some or all are missing.
    """
    if wanted:
        regular = [key for key in header.shapes if key.startswith(UNET)]
        names = [_AVERAGE + key.removeprefix("model.").replace(".", "") for key in regular]
        if lacking := [name for name in names if name not in header.shapes]:
            raise ModelError(
                f"This checkpoint has no averaged (EMA) weights: {len(lacking)} of {len(names)} are missing.",
                where=where,
                fix="Leave model.ema out.",
            )
    return _any(header.shapes, _AVERAGE)


def input_channels(header: Header) -> int:
    """Channels that the UNet of a whole model takes: 4, or 9 for inpainting."""
    return header.shapes[FIRST_CONV][1]


def stated_prediction(file: Path, header: Header) -> tuple[str, str] | None:
    """What the UNet predicts, if the checkpoint says it.

    It may be in a YAML file beside the checkpoint (as A1111 reads it), in the metadata
    (`modelspec.prediction_type`), or marked by a tensor named `v_pred`.

    Returns:
        The prediction type and where it was found, or None.
    """
    sidecar = file.with_suffix(".yaml")
    if sidecar.is_file():
        try:
            params = yaml.safe_load(sidecar.read_text(encoding="utf-8"))["model"]["params"]
            said = params.get("parameterization", "eps")
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            said = None
        if said in ("v", "eps"):
            return ("v_prediction" if said == "v" else "epsilon"), sidecar.name
    stated = header.metadata.get("modelspec.prediction_type", "").lower()
    known = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
    if stated in known:
        return known[stated], "the file's metadata"
    return ("v_prediction", "the file's v_pred mark") if "v_pred" in header.shapes else None


def _any(shapes: Mapping[str, object], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in shapes)
