"""Writes ControlNets: diffusers' folder, and the file of a Control-LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapters.controlnet import ControlNet
from finetune.backbones.branch_file import MARK, PREFIX
from finetune.backbones.controlnet import FOLDER, WEIGHTS
from finetune.backbones.finite import refuse_non_finite
from finetune.backbones.names import original_branch_name, original_unet_name, own_branch_name
from finetune.backbones.quiet import quiet
from finetune.backbones.saving import forget_paths
from finetune.formats.tensors import write_tensors


def write_controlnet(
    folder: Path, adapter: ControlNet, metadata: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> None:
    """Writes a ControlNet as `ControlNetModel.from_pretrained` reads it.

    Args:
        folder: An existing folder; wrap in `whole_folder` for all or nothing.
        adapter: The trained branch.
        metadata: How it was made (P7), for the file of the weights.
        dtype: Precision of the written weights.

    Raises:
        WeightsError: If a weight is not finite in this precision.
    """
    write_branch(folder, adapter.branch, adapter.weights(), metadata, dtype)


def write_branch(
    folder: Path, branch: Any, weights: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype
) -> None:
    """As `write_controlnet`, of a `ControlNetModel` that may come from a file, with these weights."""
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    refuse_non_finite(weights, f"{FOLDER}/{WEIGHTS}")
    with quiet():
        branch.save_config(folder)
    forget_paths(folder / "config.json")
    write_tensors(folder / WEIGHTS, weights, {"format": "pt", **_of_kind("controlnet", metadata)})


def write_control_lora(
    path: Path, adapter: ControlNet, metadata: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> None:
    """Writes the updates of a low-rank branch in the layout of stabilityai/control-lora.

    ComfyUI loads it as a ControlNet, diffusers with `ControlNetModel.from_unet(unet).load_lora_adapter`.

    Args:
        path: The file; it appears whole or not at all.
        adapter: The trained branch; it has a rank.
        metadata: How it was made (P7).
        dtype: Precision of the written weights.
    """
    tensors = {name: tensor.to(dtype) for name, tensor in control_lora_tensors(adapter).items()}
    write_tensors(path, tensors | {MARK: torch.zeros(0)}, _of_kind("control-lora", metadata))


def write_controlnet_file(
    path: Path, branch: Any, metadata: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> None:
    """Writes a ControlNet as one file with the names of the original code, as A1111's extension reads it.

    Args:
        path: The file; it appears whole or not at all.
        branch: A `ControlNetModel`.
        metadata: How it was made (P7).
        dtype: Precision of the written weights.

    Raises:
        WeightsError: If a weight is not finite in this precision.
    """
    tensors = {
        f"{PREFIX}{original_branch_name(branch, n)}": t.to(dtype) for n, t in branch.state_dict().items()
    }
    write_tensors(path, tensors, _of_kind("controlnet", metadata))


def control_lora_tensors(adapter: ControlNet) -> dict[str, Tensor]:
    """The content of the file by the names of the original ControlNet code.

    `up` and `down` of each layer (the update is up · down), and the parts that the model lacks, in full.
    """
    branch: Any = adapter.branch
    tensors: dict[str, Tensor] = {}
    for name, (up, down) in adapter.updates().items():
        original = original_unet_name(branch, name)
        tensors |= {f"{original}.up": up, f"{original}.down": down}
    for name, tensor in adapter.weights().items():
        module, _, kind = name.rpartition(".")
        if own := own_branch_name(branch, module):
            tensors[f"{own}.{kind}"] = tensor
        elif module == "conv_in" or (module.endswith("downsamplers.0.conv") and kind == "bias"):
            # The model has these too, but diffusers 0.42 counts blocks and finds downsamplers by them.
            tensors[f"{original_unet_name(branch, module)}.{kind}"] = tensor
    return tensors


def _of_kind(kind: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a LoRA with another kind of file in its architecture."""
    key = "modelspec.architecture"
    return {k: v.replace("/lora", f"/{kind}") if k == key else v for k, v in metadata.items()}
