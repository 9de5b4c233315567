"""Writes ControlNets: diffusers' folder, and the file of a Control-LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapters.controlnet import ControlNet
from finetune.backbones.controlnet import FOLDER, WEIGHTS
from finetune.backbones.finite import refuse_non_finite
from finetune.backbones.names import original_unet_name
from finetune.backbones.quiet import quiet
from finetune.backbones.saving import forget_paths
from finetune.formats.tensors import write_tensors

MARK = "lora_controlnet"
"""An empty tensor of this name marks a file as a Control-LoRA."""


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
    weights = {name: weight.to(dtype) for name, weight in adapter.weights().items()}
    refuse_non_finite(weights, f"{FOLDER}/{WEIGHTS}")
    with quiet():
        adapter.branch.save_config(folder)
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
        if own := _own_name(module, len(branch.controlnet_cond_embedding.blocks)):
            tensors[f"{own}.{kind}"] = tensor
        elif module == "conv_in" or (module.endswith("downsamplers.0.conv") and kind == "bias"):
            # The model has these too, but diffusers 0.42 counts blocks and finds downsamplers by them.
            tensors[f"{original_unet_name(branch, module)}.{kind}"] = tensor
    return tensors


def _own_name(module: str, blocks: int) -> str | None:
    """The original name of a part that only a ControlNet has; None for others."""
    part, _, rest = module.partition(".")
    if part == "controlnet_down_blocks":
        return f"zero_convs.{rest}.0"
    if part == "controlnet_mid_block":
        return "middle_block_out.0"
    if part == "controlnet_cond_embedding":
        # Activations are numbered too, so convolutions have every second number.
        ends = {"conv_in": 0, "conv_out": 2 * (blocks + 1)}
        number = ends[rest] if rest in ends else 2 * (int(rest.partition(".")[2]) + 1)
        return f"input_hint_block.{number}"
    return None


def _of_kind(kind: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a LoRA with another kind of file in its architecture."""
    key = "modelspec.architecture"
    return {k: v.replace("/lora", f"/{kind}") if k == key else v for k, v in metadata.items()}
