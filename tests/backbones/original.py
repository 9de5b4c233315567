"""Writes a diffusers pipeline as a single file with the original code's key names, for tests.

The UNet's names come from the package (diffusers' own conversion then shows whether they are right);
those of the VAE and the text encoders are written out here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from finetune.backbones.names import original_unet_name

VAE_NAMES = (
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
OPEN_CLIP_NAMES = (
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"layer_norm", "ln_"),
    (r"self_attn", "attn"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)


def original_state(pipeline: Any) -> dict[str, Tensor]:
    """All weights of `pipeline` under the names of the original Stable Diffusion checkpoints."""
    unet = pipeline.unet
    state = {f"model.diffusion_model.{original_unet_name(unet, k)}": v for k, v in unet.state_dict().items()}
    blocks = len(pipeline.vae.config.up_block_types)
    for name, tensor in pipeline.vae.state_dict().items():
        state[f"first_stage_model.{vae_name(name, blocks)}"] = vae_tensor(name, tensor)
    if hasattr(pipeline, "text_encoder_2"):
        state |= clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        state |= open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    elif unet.config.use_linear_projection:
        state |= open_clip(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        state |= clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    return {k: v.contiguous() for k, v in state.items()}


def write_original(pipeline: Any, file: Path, metadata: dict[str, str] | None = None) -> Path:
    """Writes `pipeline` into one safetensors file."""
    save_file(original_state(pipeline), file, metadata=metadata)
    return file


def vae_name(name: str, blocks: int) -> str:
    """The original name of a VAE parameter; the way up is numbered from the end."""
    for pattern, replacement in VAE_NAMES:
        name = re.sub(pattern, replacement, name)
    turn = lambda m: f"up.{blocks - 1 - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}"  # noqa: E731
    name = re.sub(r"up_blocks\.(\d)\.(resnets|upsamplers)", turn, name)
    return re.sub(r"upsample\.0", "upsample", name)


def vae_tensor(name: str, tensor: Tensor) -> Tensor:
    """The original VAE's attention is made of 1x1 convolutions."""
    is_projection = ".attentions." in name and name.endswith("weight") and tensor.ndim == 2
    return tensor[:, :, None, None] if is_projection else tensor


def clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """OpenAI's CLIP under transformers' classic names."""
    return {f"{prefix}text_model.{k.removeprefix('text_model.')}": v for k, v in encoder.state_dict().items()}


def open_clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """OpenCLIP's names, with query, key and value in one matrix and the projection transposed."""
    weights = dict(encoder.state_dict())
    projection = weights.pop("text_projection.weight", torch.eye(encoder.config.hidden_size))
    state = {f"{prefix}text_projection": projection.T}
    for name, tensor in weights.items():
        name = f"text_model.{name.removeprefix('text_model.')}"
        for pattern, replacement in OPEN_CLIP_NAMES:
            name = re.sub(pattern, replacement, name)
        if match := re.match(r"(.*attn)\.q_proj\.(weight|bias)", name):
            live = re.sub(r"^.*resblocks\.(\d+)\..*", r"encoder.layers.\1.self_attn", name)
            live = live if live + ".q_proj.weight" in weights else f"text_model.{live}"
            parts = [weights[f"{live}.{p}_proj.{match[2]}"] for p in "qkv"]
            state[f"{prefix}{match[1]}.in_proj_{match[2]}"] = torch.cat(parts)
        elif not re.search(r"attn\.[kv]_proj", name):
            state[prefix + name] = tensor
    return state
