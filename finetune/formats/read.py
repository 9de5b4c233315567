"""Reads a LoRA file of any of the layouts in `formats.keys`, ours or someone else's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.backbones import Backbone
from finetune.errors import WeightsError
from finetune.formats.families import FAMILY_NAMES, made_for
from finetune.formats.keys import LayerNames, Role, other_kind, parse_key
from finetune.formats.tensors import read_tensors

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
DIFFUSERS_METADATA = "lora_adapter_metadata"
WHOLE_MODEL = ("model.diffusion_model.", "down_blocks.", "first_stage_model.")
Layer = tuple[str, str]


def read_lora(path: str | Path, backbone: Backbone) -> LoRAWeights:
    """Reads a LoRA for `backbone`, which is not changed.

    Args:
        path: A safetensors file, or a folder (a run's, a diffusers LoRA's) that holds one.
        backbone: The model that it is to be used with; every key of the file must fit it.

    Returns:
        The weights in fp32 with their strength as alpha/rank, whichever way the file says it.

    Raises:
        WeightsError: If there is no such file, it is damaged, is no LoRA, or any key or shape does not
            fit the model; the first few are named.
    """
    file = find_lora(Path(path))
    tensors, metadata = read_tensors(file)
    names = LayerNames(backbone)
    rows: dict[Layer, dict[Role, Tensor]] = {}
    strange: list[str] = []
    for name, tensor in tensors.items():
        key = parse_key(name)
        layer = names.find(key) if key else None
        if key is None or layer is None:
            strange.append(name)
        else:
            rows.setdefault(layer, {})[key.role] = tensor
    if not any("down" in row for row in rows.values()) and not any(parse_key(name) for name in strange):
        raise _no_lora(file, tensors)
    if strange:
        raise _misfit(file, strange, len(tensors), "keys fit no layer", backbone, (tensors, metadata))
    configs = _configs(file, metadata)
    layers, faults = {}, []
    for layer, row in rows.items():
        try:
            layers[layer] = _layer(layer, row, names.shapes[layer], configs.get(layer[0], {}))
        except ValueError as fault:
            faults.append(f"{'.'.join(layer)}: {fault}")
    if faults:
        raise _misfit(file, faults, len(rows), "layers do not fit", backbone, (tensors, metadata))
    return LoRAWeights(layers, metadata)


def find_lora(path: Path) -> Path:
    """The LoRA file that `path` means: itself, or the one in that folder.

    Raises:
        WeightsError: If there is none, or more than one to choose from.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(
            "There is no such LoRA.", where=str(path), mend="Give a safetensors file or a run folder."
        )
    if (path / DIFFUSERS_FILE).is_file():
        return path / DIFFUSERS_FILE
    found = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("."))
    if len(found) == 1:
        return found[0]
    if found:
        raise WeightsError(
            f"{len(found)} files could be meant: {', '.join(p.name for p in found[:3])}.",
            where=str(path),
            mend="Name one of them.",
        )
    raise WeightsError(
        "This folder holds no LoRA.",
        where=str(path),
        mend="A run folder has one once its training is finished (continue it with --resume).",
    )


def _layer(
    layer: Layer, row: dict[Role, Tensor], shape: tuple[int, ...], config: Mapping[str, Any]
) -> LayerWeights:
    if missing := {"down", "up"} - row.keys():
        raise ValueError(f"lora_{missing.pop()} is missing")
    down, up = row["down"].float(), row["up"].float()
    if not all(torch.isfinite(tensor).all() for tensor in row.values()):
        raise ValueError("holds NaN or infinite values")
    if "mid" in row:
        # A convolution taken apart twice (LoCon with Tucker): up(1x1) · mid(kxk) · down(1x1).
        down = torch.einsum("mnkl,ni->mikl", row["mid"].float(), down.flatten(1))
    down, up = _as_layer(down, len(shape)), _as_layer(up, len(shape))
    rank = down.shape[0]
    expected = (rank, *shape[1:]), (shape[0], rank, *[1] * (len(shape) - 2))
    if (tuple(down.shape), tuple(up.shape)) != expected:
        raise ValueError(f"has shapes {tuple(down.shape)} and {tuple(up.shape)} for a layer of {shape}")
    alpha = float(row["alpha"]) if "alpha" in row else _alpha(layer, rank, config)
    return LayerWeights(down, up, alpha, _magnitude(row, shape))


def _as_layer(tensor: Tensor, dimensions: int) -> Tensor:
    # A linear layer and a 1x1 convolution are the same thing, and files have one for the other.
    if tensor.ndim == 4 and dimensions == 2 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor[:, :, None, None] if tensor.ndim == 2 and dimensions == 4 else tensor


def _magnitude(row: Mapping[Role, Tensor], shape: tuple[int, ...]) -> Tensor | None:
    tensor = row.get("magnitude", row.get("dora_scale"))
    if tensor is None:
        return None
    if "dora_scale" in row and tensor.ndim > 1 and tensor.shape[0] == 1 < tensor.numel():
        raise ValueError("has DoRA magnitudes of inputs (wd_on_output=False), which are not supported")
    if tensor.numel() != shape[0]:
        raise ValueError(f"has {tensor.numel()} DoRA magnitudes for {shape[0]} outputs")
    return tensor.float().flatten()


def _configs(file: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """PEFT's settings of each part, as diffusers keeps them: `{"unet.lora_alpha": 4, …}` in JSON."""
    try:
        flat = json.loads(metadata.get(DIFFUSERS_METADATA, "{}"))
        configs: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            part, _, setting = key.partition(".")
            configs.setdefault(part, {})[setting] = value
        return configs
    except (ValueError, AttributeError) as error:
        raise WeightsError(
            f"The file's {DIFFUSERS_METADATA} is damaged.", where=str(file), mend="Get the file again."
        ) from error


def _alpha(layer: Layer, rank: int, config: Mapping[str, Any]) -> float:
    """Strength by PEFT's settings; without any, diffusers takes alpha = rank."""
    if "lora_alpha" not in config:
        return float(rank)
    pattern = config.get("alpha_pattern") or {}
    alpha = float(pattern.get(get_pattern_key(list(pattern), layer[1]), config["lora_alpha"]))
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def _no_lora(file: Path, tensors: Mapping[str, Tensor]) -> WeightsError:
    if kind := other_kind(tensors):
        return WeightsError(
            f"This file holds {kind}, which is not supported.", where=str(file), mend="Use a LoRA file."
        )
    whole = any(
        key.startswith(("model.diffusion_model.", "down_blocks.", "first_stage_model.")) for key in tensors
    )
    return WeightsError(
        "This is a whole model, not a LoRA." if whole else "This file holds no LoRA.",
        where=str(file),
        mend="Give it as --model." if whole else "Give a file with LoRA weights.",
    )


def _misfit(
    file: Path,
    faults: list[str],
    count: int,
    what: str,
    backbone: Backbone,
    content: tuple[Mapping[str, Tensor], Mapping[str, str]],
) -> WeightsError:
    shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
    origin, own = made_for(*content), FAMILY_NAMES[backbone.family].title
    if kind := other_kind(faults):
        mend = f"The file holds {kind}, which is not supported."
    elif origin and origin != own:
        mend = f"It seems made for {origin}, but {backbone.name} is {own}: choose such a model with --model."
    else:
        mend = f"Use the model that it was trained on instead of {backbone.name}."
    return WeightsError(f"{len(faults)} of {count} {what}: {shown}.", where=str(file), mend=mend)
