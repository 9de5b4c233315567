"""What a file of weights is, by the names in it: for the error when it is given as something else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        what: With its article.
        marks: Beginnings of names that only it has; with a leading asterisk, parts of names.
        use: How it is given to this program; None if it is of no use here.
    """

    what: str
    marks: tuple[str, ...]
    use: str | None = None


# The first match counts: an IP-Adapter for faces has LoRA layers, a Control-LoRA has those of a ControlNet.
KINDS = (
    Kind("an IP-Adapter", ("image_proj.", "ip_adapter.")),
    Kind("a motion module", ("*.motion_modules.",)),
    Kind(
        "a ControlNet",
        ("control_model.", "zero_convs.", "lora_controlnet", "controlnet_down_blocks."),
        "Give it with --controlnet.",
    ),
    Kind("a T2I-Adapter", ("adapter.body.", "adapter.conv_in.", "body.0.in_conv.", "body.0.block1.")),
    Kind(
        "a LoRA",
        ("*lora_", "*.lora.", "*hada_w1", "*lokr_w"),
        "Give it with --lora, and its base model with --model.",
    ),
    Kind(
        "the embedding of a new word",
        ("emb_params", "clip_l", "clip_g", "string_to_param", "<"),
        "Give it with --embedding.",
    ),
    Kind("a model of Stable Diffusion 3", ("*joint_blocks.",)),
    Kind("a model of Flux", ("*double_blocks.",)),
    Kind("a UNet alone", ("down_blocks.", "up_blocks.", "mid_block."), "Give the whole diffusers folder."),
    Kind(
        "a whole model",
        ("model.diffusion_model.", "cond_stage_model.", "conditioner."),
        "Give it with --model.",
    ),
    Kind(
        "a VAE alone",
        ("first_stage_model.", "encoder.down", "decoder.up", "decoder.mid", "decoder.conv_in."),
        "Give it with --vae.",
    ),
    Kind(
        "a text encoder alone", ("text_model.", "transformer.resblocks."), "Give the whole diffusers folder."
    ),
    Kind("a model of pictures (CLIP)", ("vision_model.", "visual.")),
    Kind("an upscaler", ("conv_first.", "model.1.sub.", "body.0.rdb")),
    Kind("a language model", ("model.layers.", "lm_head.")),
)


def kind_of(names: Collection[str]) -> Kind | None:
    """The kind of a file with tensors of these names; None if it is none of `KINDS`."""
    return next((kind for kind in KINDS if any(_has(name, kind.marks) for name in names)), None)


def _has(name: str, marks: tuple[str, ...]) -> bool:
    return any(mark[1:] in name if mark.startswith("*") else name.startswith(mark) for mark in marks)
