"""Module names in the files that other programs read, made from the live modules' names.

There are diffusers' names (`down_blocks.1.attentions.0`), the original code's (`input_blocks.4.1`),
which kohya's sd-scripts use for SDXL, and, for text encoders, transformers' classic ones
(`text_model.encoder…`), whose first part transformers 5 dropped in some classes.
"""

from __future__ import annotations

import re

from torch import nn


def numbered(stem: str, count: int) -> list[str]:
    """The names of `count` parts of a kind: `text_encoder`, `text_encoder_2`, …."""
    return [f"{stem}_{number}" if number > 1 else stem for number in range(1, count + 1)]


_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.(.+))?$"
)
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)(?:\.(.+))?$")
_CLASSIC = "text_model."


def original_unet_name(unet: nn.Module, name: str) -> str:
    """The name of a UNet module (or parameter) in the original Stable Diffusion code.

    Each of diffusers' blocks takes up `layers_per_block` numbered slots there (one more in up blocks), plus
    one for a downsampler; an upsampler shares the slot of the block's last layer.

    Args:
        unet: The `UNet2DConditionModel` the name is from.
        name: A dotted name of diffusers, e.g. `down_blocks.1.attentions.0.proj_in`.

    Raises:
        KeyError: If the original UNet has no such part.
    """
    for ours, theirs in _TOP.items():
        if name == ours or name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    if match := _MIDDLE.match(name):
        kind, index, rest = match.groups()
        slot = 1 if kind == "attentions" else 2 * int(index)
        return _join(f"middle_block.{slot}", _inner(kind, rest))
    if not (match := _BLOCK.match(name)):
        raise KeyError(name)
    way, block, kind, index, rest = match.groups()
    layers = int(unet.config.layers_per_block)  # type: ignore[union-attr,arg-type]
    if way == "down":
        first = 1 + int(block) * (layers + 1)
        if kind == "downsamplers":
            return _join(f"input_blocks.{first + layers}.0", (rest or "").replace("conv", "op", 1))
        return _join(f"input_blocks.{first + int(index)}.{int(kind == 'attentions')}", _inner(kind, rest))
    first = int(block) * (layers + 1)
    if kind == "upsamplers":
        attends = hasattr(unet.up_blocks[int(block)], "attentions")  # type: ignore[index]
        return _join(f"output_blocks.{first + layers}.{2 if attends else 1}", rest)
    return _join(f"output_blocks.{first + int(index)}.{int(kind == 'attentions')}", _inner(kind, rest))


def original_branch_name(branch: nn.Module, name: str) -> str:
    """The name of a ControlNet's parameter in the original ControlNet code (lllyasviel/ControlNet).

    Args:
        branch: The `ControlNetModel` the name is from.
        name: A dotted name of diffusers.

    Raises:
        KeyError: If the original ControlNet has no such part.
    """
    module, _, kind = name.rpartition(".")
    if own := own_branch_name(branch, module):
        return f"{own}.{kind}"
    return original_unet_name(branch, name)


def own_branch_name(branch: nn.Module, module: str) -> str | None:
    """The original name of a module that only a ControlNet has; None for those that a UNet has too."""
    part, _, rest = module.partition(".")
    if part == "controlnet_down_blocks":
        return f"zero_convs.{rest}.0"
    if part == "controlnet_mid_block":
        return "middle_block_out.0"
    if part == "controlnet_cond_embedding":
        # Activations are numbered too, so convolutions have every second number.
        blocks = len(branch.controlnet_cond_embedding.blocks)  # type: ignore[union-attr,arg-type]
        ends = {"conv_in": 0, "conv_out": 2 * (blocks + 1)}
        number = ends[rest] if rest in ends else 2 * (int(rest.partition(".")[2]) + 1)
        return f"input_hint_block.{number}"
    return None


def classic_text_name(encoder: nn.Module, name: str) -> str:
    """The classic name (`text_model.encoder.layers.0…`) of a text encoder's live module or parameter."""
    return name if hasattr(encoder, "text_model") or name.startswith(_CLASSIC) else _CLASSIC + name


def live_text_name(encoder: nn.Module, name: str) -> str:
    """The inverse of `classic_text_name`: the loaded module's name in the installed transformers."""
    return name if hasattr(encoder, "text_model") else name.removeprefix(_CLASSIC)


def _inner(kind: str, rest: str | None) -> str | None:
    if rest is None or kind != "resnets":
        return rest
    part, _, tail = rest.partition(".")
    return _join(_RESNET[part], tail)


def _join(head: str, tail: str | None) -> str:
    return f"{head}.{tail}" if tail else head
