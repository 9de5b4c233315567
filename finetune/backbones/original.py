"""A model under the key names of the original Stable Diffusion code, for single-file checkpoints."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from finetune.backbones.backbone import Backbone
from finetune.backbones.names import classic_text_name, original_unet_name

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


def original_state(backbone: Backbone) -> dict[str, Tensor]:
    """All weights under the names of the published checkpoints of their family.

    A1111, Forge, ComfyUI and diffusers' `from_single_file` load them.

    Args:
        backbone: The model; adapters must have been merged or detached.
    """
    unet, vae = backbone.unet, backbone.vae
    state = {f"model.diffusion_model.{original_unet_name(unet, k)}": v for k, v in unet.state_dict().items()}
    blocks = len(vae.config.up_block_types)
    for name, tensor in vae.state_dict().items():
        state[f"first_stage_model.{_vae_name(name, blocks)}"] = _vae_tensor(name, tensor)
    for encoder, (structure, prefix) in zip(backbone.text_encoders, backbone.original_text, strict=True):
        state |= (_clip if structure == "clip" else _open_clip)(encoder, prefix)
    # What the family does not imply, readers learn from these empty tensors.
    prediction = backbone.prediction_type
    if prediction == "v_prediction" and prediction not in backbone.published_predictions:
        state["v_pred"] = torch.zeros(0)
    if backbone.scheduler.config.get("rescale_betas_zero_snr"):
        state["ztsnr"] = torch.zeros(0)
    return {name: tensor.contiguous() for name, tensor in state.items()}


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


def _vae_tensor(name: str, tensor: Tensor) -> Tensor:
    """The original VAE's attention is made of 1x1 convolutions."""
    is_projection = ".attentions." in name and name.endswith("weight") and tensor.ndim == 2
    return tensor[:, :, None, None] if is_projection else tensor


def _clip(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    """OpenAI's CLIP, under transformers' classic names."""
    return {f"{prefix}{classic_text_name(encoder, k)}": v for k, v in encoder.state_dict().items()}


def _open_clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """OpenCLIP's names, with query, key and value in one matrix and the projection transposed."""
    weights = dict(encoder.state_dict())
    # SD 2.x has no projection, but its readers expect one.
    projection = weights.pop("text_projection.weight", torch.eye(int(encoder.config.hidden_size)))
    weights = {classic_text_name(encoder, name): tensor for name, tensor in weights.items()}
    state = {f"{prefix}text_projection": projection.T}
    for name, tensor in weights.items():
        if re.search(r"self_attn\.[kv]_proj", name):
            continue
        original = name
        for pattern, replacement in _OPEN_CLIP_NAMES:
            original = re.sub(pattern, replacement, original)
        if "attn.q_proj" in original:
            original = original.replace("attn.q_proj.", "attn.in_proj_")
            tensor = torch.cat([weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
        state[prefix + original] = tensor
    return state
