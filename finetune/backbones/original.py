"""A model under the key names of the original Stable Diffusion code, for single-file checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import torch
from torch import nn

from finetune.backbones.backbone import Backbone
from finetune.backbones.names import classic_text_name, numbered, original_unet_name
from finetune.backbones.planned import Changes, planned_state
from finetune.backbones.stream import Planned, joined, planned
from finetune.backbones.vae import VAE

_PROJECTION = "text_projection.weight"

_VAE_NAMES = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)
_OPEN_CLIP_NAMES = (
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"layer_norm", "ln_"),
    (r"self_attn", "attn"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)


def original_state(backbone: Backbone, changes: Changes | None = None) -> dict[str, Planned]:
    """All weights under the names of the published checkpoints of their family.

    A1111, Forge, ComfyUI and diffusers' `from_single_file` load them.

    Args:
        backbone: The model; adapters must have been merged or detached.
        changes: What differs in the written model.
    """
    unet, vae = backbone.unet, backbone.vae
    state = {
        f"model.diffusion_model.{original_unet_name(unet, name)}": weight
        for name, weight in planned_state("unet", unet, changes).items()
    }
    blocks = len(vae.config.up_block_types)
    for name, weight in planned_state(VAE, vae, changes).items():
        state[f"first_stage_model.{_vae_name(name, blocks)}"] = _vae_weight(name, weight)
    names = numbered("text_encoder", len(backbone.text_encoders))
    for part, encoder, (structure, prefix) in zip(
        names, backbone.text_encoders, backbone.original_text, strict=True
    ):
        weights = planned_state(part, encoder, changes)
        state |= (_clip if structure == "clip" else _open_clip)(encoder, weights, prefix)
    # What the family does not imply, readers learn from these empty tensors.
    prediction = backbone.prediction_type
    if prediction == "v_prediction" and prediction not in backbone.published_predictions:
        state["v_pred"] = planned(torch.zeros(0))
    if backbone.scheduler.config.get("rescale_betas_zero_snr"):
        state["ztsnr"] = planned(torch.zeros(0))
    return state


_STRUCTURE = {
    "unet": ("block_out_channels", "layers_per_block", "cross_attention_dim"),
    "vae": ("block_out_channels", "latent_channels"),
}


def is_published(backbone: Backbone) -> bool:
    """Whether a model is built like the published ones of its family, which readers of one file expect."""
    folder = files("finetune.backbones").joinpath("published", backbone.family)
    for part, keys in _STRUCTURE.items():
        published = json.loads(folder.joinpath(part, "config.json").read_text(encoding="utf-8"))
        own = json.loads(getattr(backbone, part).to_json_string())
        if any(own[key] != published[key] for key in keys):
            return False
    return True


def _vae_name(name: str, blocks: int) -> str:
    """The original name of a VAE parameter; its up blocks are numbered from the end."""
    for pattern, replacement in _VAE_NAMES:
        name = re.sub(pattern, replacement, name)
    kinds = {"resnets": "block", "upsamplers": "upsample"}
    name = re.sub(
        r"up_blocks\.(\d)\.(resnets|upsamplers)",
        lambda match: f"up.{blocks - 1 - int(match[1])}.{kinds[match[2]]}",
        name,
    )
    return name.replace("upsample.0", "upsample")


def _vae_weight(name: str, weight: Planned) -> Planned:
    """The original VAE's attention is made of 1x1 convolutions."""
    if ".attentions." not in name or not name.endswith("weight") or len(weight.shape) != 2:
        return weight
    return weight.through(lambda tensor: tensor[:, :, None, None], (*weight.shape, 1, 1))


def _clip(encoder: nn.Module, weights: Mapping[str, Planned], prefix: str) -> dict[str, Planned]:
    """OpenAI's CLIP, under transformers' classic names."""
    return {f"{prefix}{classic_text_name(encoder, name)}": weight for name, weight in weights.items()}


def _open_clip(encoder: Any, weights: Mapping[str, Planned], prefix: str) -> dict[str, Planned]:
    """OpenCLIP's names, with query, key and value in one matrix and the projection transposed."""
    # SD 2.x has no projection, but its readers expect one.
    none = planned(torch.eye(int(encoder.config.hidden_size)))
    projection = weights.get(_PROJECTION, none)
    state = {f"{prefix}text_projection": projection.through(lambda matrix: matrix.T, projection.shape[::-1])}
    weights = {classic_text_name(encoder, name): one for name, one in weights.items() if name != _PROJECTION}
    for name, weight in weights.items():
        if re.search(r"self_attn\.[kv]_proj", name):
            continue
        original = name
        for pattern, replacement in _OPEN_CLIP_NAMES:
            original = re.sub(pattern, replacement, original)
        if "attn.q_proj" in original:
            original = original.replace("attn.q_proj.", "attn.in_proj_")
            weight = joined([weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
        state[prefix + original] = weight
    return state
