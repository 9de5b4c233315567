"""Reads a ControlNet from one file: the original code's layout, or the updates of a Control-LoRA.

| keys | what it is |
|---|---|
| `control_model.input_blocks…`, or without the first word | a whole ControlNet (lllyasviel/ControlNet) |
| the same with `.up` and `.down`, and an empty `lora_controlnet` | updates of the UNet's own weights |
| `controlnet_down_blocks…` | a whole ControlNet with diffusers' names, without its folder |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.backbones.kinds import kind_of
from finetune.backbones.names import original_branch_name
from finetune.backbones.tensors import read_tensors
from finetune.errors import WeightsError

MARK = "lora_controlnet"
"""An empty tensor of this name marks a file as a Control-LoRA."""

OWN = "controlnet_down_blocks."
"""What only names of diffusers begin with."""

PREFIX = "control_model."
"""What the names in a file of a whole ControlNet may begin with."""


def fill_branch(branch: Any, file: Path, unet: Callable[[str], Tensor | None]) -> None:
    """Gives a branch the weights in a file, in fp32.

    Args:
        branch: A `ControlNetModel` of the right structure, without values.
        file: A safetensors file.
        unet: Gives a weight of the UNet by its name, which a Control-LoRA changes; None if there is none.

    Raises:
        WeightsError: If it cannot be read, is something else, or does not fit.
    """
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(file)[0].items()}
    weights: dict[str, Tensor] = {}
    faults: list[str] = []
    plain = any(name.startswith(OWN) for name in tensors)
    for name, empty in branch.state_dict().items():
        stored = name if plain else original_branch_name(branch, name)
        weight = _weight(stored, tensors, unet(name))
        if weight is None:
            faults.append(f"{name} is missing")
        elif weight.shape != empty.shape:
            faults.append(f"{name} is {tuple(weight.shape)} instead of {tuple(empty.shape)}")
        elif not torch.isfinite(weight).all():
            faults.append(f"{name} is not finite")
        else:
            weights[name] = weight
    if faults:
        raise _unfit(file, tensors, faults)
    branch.load_state_dict(weights, assign=True)


def _weight(original: str, tensors: Mapping[str, Tensor], own: Tensor | None) -> Tensor | None:
    """A weight of the file, or in a Control-LoRA the UNet's with its update; None if there is none."""
    if original in tensors:
        return tensors[original].float()
    if MARK not in tensors or own is None:
        return None
    base, (layer, _, kind) = own.detach().float(), original.rpartition(".")
    up, down = tensors.get(f"{layer}.up"), tensors.get(f"{layer}.down")
    if kind != "weight" or up is None or down is None:
        return base.clone()  # or training the branch would change the UNet
    return base + (up.float().flatten(1) @ down.float().flatten(1)).view(base.shape)


def _unfit(file: Path, tensors: Mapping[str, Tensor], faults: list[str]) -> WeightsError:
    if not any(name.startswith(("zero_convs.", OWN)) for name in tensors):
        kind = kind_of(tensors)
        what = f"This is {kind.what}, not a ControlNet." if kind else "This is not a ControlNet."
        fix = kind.use if kind and kind.use else "Give a ControlNet."
        return WeightsError(what, where=str(file), fix=fix)
    return WeightsError(
        f"The ControlNet was made for another model: {'; '.join(faults[:2])}.",
        where=str(file),
        fix="Name the model that it was made for with --model, or give another ControlNet.",
    )
