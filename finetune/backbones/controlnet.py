"""ControlNet branches: made from a UNet, or read from a folder (Zhang et al. 2023, arXiv:2302.05543)."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from finetune.backbones.backbone import Backbone
from finetune.backbones.branch_file import fill_branch
from finetune.backbones.memory import move
from finetune.backbones.part import load_part
from finetune.backbones.quantize import refuse_quantized
from finetune.backbones.quiet import quiet
from finetune.diffusion.random import generator
from finetune.errors import ModelError, WeightsError

FOLDER = "controlnet"
"""Where a run folder has its ControlNet."""

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""The file of the weights in it."""

EMBEDDING = "controlnet_cond_embedding."
_CHANNELS = (16, 32, 96, 256)


def new_branch(backbone: Backbone, seed: int, *, shared: bool = False) -> Any:
    """A branch that starts as a copy of the UNet's encoder behind zero convolutions: it changes nothing yet.

    The convolutions that bring a control picture to the size of the latents are initialized as in PyTorch,
    from the seed alone; the last of them and those behind the branch are zero.

    Args:
        backbone: The model whose UNet is copied.
        seed: Seed of the random weights.
        shared: Use the UNet's own tensors instead of copies, for a branch that keeps them frozen.

    Returns:
        A `ControlNetModel`, fp32 unless its weights are shared.

    Raises:
        ModelError: If the model is for inpainting: a ControlNet sees the noisy latents alone.
        ConfigError: If the model is quantized.
    """
    refuse_quantized(backbone, "A new ControlNet")
    if backbone.inpaints:
        raise ModelError(
            "A new ControlNet cannot start as a copy of an inpainting UNet, which has more input channels.",
            where=backbone.name,
            fix="Train it on the text-to-image model of the family; it then fits this one too.",
        )
    branch = _empty_branch(backbone)
    copied = dict(backbone.unet.named_parameters())
    weights: dict[str, Tensor] = {}
    for name, empty in branch.state_dict().items():
        if name in copied:
            weights[name] = copied[name] if shared else copied[name].detach().float().clone()
        elif name.startswith(EMBEDDING) and "conv_out" not in name:
            weights[name] = _drawn(name, branch, seed)
        else:
            weights[name] = torch.zeros(empty.shape)
    branch.load_state_dict(weights, assign=True)
    return branch.to(backbone.device).eval().requires_grad_(False)


def _empty_branch(backbone: Backbone) -> Any:
    """A branch of the right structure without values, made without touching the random state."""
    steps = backbone.latent_factor.bit_length() - 1  # each halves the control picture
    channels = (_CHANNELS + _CHANNELS[-1:] * steps)[: steps + 1]
    with torch.device("meta"), quiet():
        return ControlNetModel.from_unet(
            backbone.unet, conditioning_embedding_out_channels=channels, load_weights_from_unet=False
        )


def _drawn(name: str, branch: nn.Module, seed: int) -> Tensor:
    """A weight or bias of a convolution, as `nn.Conv2d` initializes it."""
    module, _, kind = name.rpartition(".")
    weight = branch.get_submodule(module).weight
    assert isinstance(weight, Tensor)
    shape = weight.shape
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    empty = torch.empty(shape if kind == "weight" else shape[:1])
    return empty.uniform_(-bound, bound, generator=generator(seed, 0, f"controlnet/{name}"))


def read_branch(path: Path | str, backbone: Backbone) -> Any:
    """Loads a ControlNet in fp32, on the CPU and frozen.

    Args:
        path: A diffusers folder, a run folder with one, or a safetensors file (`branch_file`).
        backbone: The model that it is to be used with.

    Raises:
        WeightsError: If there is none, it is damaged, or it was made for another model.
    """
    folder = find_branch(path)
    if folder.is_file():
        branch = _empty_branch(backbone)
        fill_branch(branch, folder, partial(_weight_of, backbone.unet))
        return branch.eval().requires_grad_(False)
    try:
        branch = load_part(ControlNetModel, folder, False, [])
        move(branch, "cpu", torch.float32)
    except ModelError as error:
        fix = _GIVE if "pickle" not in error.what else "Get its .safetensors version."
        raise WeightsError(error.what, where=error.where, fix=fix) from error
    _check_fit(branch, backbone, folder)
    return branch.eval().requires_grad_(False)


def _weight_of(unet: nn.Module, name: str) -> Tensor | None:
    """A weight of the UNet by its name, as it is computed with if it is quantized; None if there is none."""
    module, _, kind = name.rpartition(".")
    try:
        found = getattr(unet.get_submodule(module), kind)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def find_branch(path: Path | str) -> Path:
    """Where a ControlNet is: `path` itself, a folder or a file, or `controlnet` in a run folder.

    Raises:
        WeightsError: If there is none. No weights are read, so this is cheap.
    """
    given = Path(path).expanduser()
    if given.is_file():
        return given
    for folder in (given, given / FOLDER):
        config = folder / "config.json"
        if not config.is_file():
            continue
        try:
            kind = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
        except (OSError, ValueError, AttributeError, RecursionError):
            kind = "unreadable"
        if kind == "ControlNetModel":
            return folder
        raise WeightsError(
            f"This is not a ControlNet: its class in config.json is {kind}.", where=str(config), fix=_GIVE
        )
    what = "There is no such folder or file." if not given.exists() else "There is no ControlNet here."
    raise WeightsError(what, where=str(path), fix=_GIVE)


_GIVE = "Give a run folder of `finetune controlnet`, a diffusers folder of a ControlNet, or its file."


def _check_fit(branch: Any, backbone: Backbone, folder: Path) -> None:
    channels = branch.config.conditioning_embedding_out_channels
    factor, colors = 2 ** (len(channels) - 1), branch.config.conditioning_channels
    expected = {name: tuple(t.shape) for name, t in _empty_branch(backbone).state_dict().items()}
    width, _, *kernel = expected["conv_in.weight"]
    expected["conv_in.weight"] = width, backbone.latent_channels, *kernel  # no mask, even for inpainting
    found = {name: tuple(t.shape) for name, t in branch.state_dict().items()}
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is unknown" for name in found if name not in expected]
    faults += [
        f"{name} is {found[name]} instead of {shape}"
        for name, shape in expected.items()
        # The layers that downsample the control picture may have any width.
        if name in found and found[name] != shape and not name.startswith(EMBEDDING)
    ]
    if factor != backbone.latent_factor:
        faults = [f"it reduces control pictures by {factor}, this model's VAE by {backbone.latent_factor}"]
    elif colors != 3:
        faults = [f"it takes control pictures with {colors} channels, not 3"]
    if faults:
        raise WeightsError(
            f"The ControlNet was made for another model than {backbone.name}: {'; '.join(faults[:2])}.",
            where=str(folder),
            fix="Name the model that it was made for with --model, or give another ControlNet.",
        )
