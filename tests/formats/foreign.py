"""Files that people give by mistake: each kind by the names that its own program writes, and damaged ones."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors.torch import save, save_file

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "LoRA": {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": (2, 16),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight": (16, 2),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.alpha": (),
    },
    "embedding": {"emb_params": (2, 16)},
    "ControlNet": {
        "control_model.input_blocks.0.0.weight": (4, 4, 3, 3),
        "control_model.zero_convs.0.0.weight": (4, 4, 1, 1),
        "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
    },
    "ControlNet of diffusers": {
        "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
        "controlnet_down_blocks.0.weight": (4, 4, 1, 1),
        "down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3),
    },
    "Control-LoRA": {
        "lora_controlnet": (0,),
        "zero_convs.0.0.weight": (4, 4, 1, 1),
        "input_blocks.1.0.in_layers.2.up": (4, 2, 1, 1),
        "input_blocks.1.0.in_layers.2.down": (2, 4, 3, 3),
    },
    "VAE": {
        "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
        "first_stage_model.quant_conv.bias": (8,),
    },
    "VAE alone": {
        "encoder.down.0.block.0.conv1.weight": (8, 8, 3, 3),
        "decoder.conv_in.weight": (8, 4, 3, 3),
    },
    "VAE of diffusers": {
        "encoder.down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
        "decoder.mid_block.attentions.0.to_q.weight": (8, 8),
    },
    "UNet of diffusers": {
        "down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3),
        "conv_in.weight": (4, 4, 3, 3),
    },
    "UNet": {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)},
    "text encoder": {"text_model.encoder.layers.0.self_attn.q_proj.weight": (16, 16)},
    "checkpoint": {
        "model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (16,),
        "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
    },
    "T2I-Adapter": {
        "body.0.block1.weight": (4, 4, 3, 3),
        "body.0.in_conv.weight": (4, 4, 1, 1),
        "conv_in.weight": (4, 192, 3, 3),
    },
    "T2I-Adapter of diffusers": {
        "adapter.conv_in.weight": (4, 192, 3, 3),
        "adapter.body.0.resnets.0.block1.weight": (4, 4, 3, 3),
    },
    "IP-Adapter": {
        "image_proj.proj.weight": (64, 16),
        "image_proj.norm.weight": (16,),
        "ip_adapter.1.to_k_ip.weight": (4, 16),
        "ip_adapter.1.to_v_ip.weight": (4, 16),
    },
    "IP-Adapter of faces": {
        "image_proj.proj.0.weight": (64, 16),
        "ip_adapter.0.to_q_lora.down.weight": (2, 16),
        "ip_adapter.0.to_q_lora.up.weight": (16, 2),
        "ip_adapter.1.to_k_ip.weight": (4, 16),
    },
    "upscaler": {"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)},
    "CLIP of pictures": {"vision_model.encoder.layers.0.self_attn.q_proj.weight": (16, 16)},
    "motion module": {
        "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": (4, 4),
        "up_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": (4, 4),
    },
    "LoRA of Flux": {
        "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (2, 16),
        "transformer.single_transformer_blocks.0.attn.to_k.lora_B.weight": (16, 2),
    },
    "model of Flux": {"double_blocks.0.img_attn.norm.key_norm.scale": (4,)},
    "model of SD 3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)},
    "language model": {"model.layers.0.self_attn.q_proj.weight": (16, 16), "lm_head.weight": (32, 16)},
}
# What they are called, where something else is wanted.
FOREIGN = {
    "LoRA": "a LoRA",
    "embedding": "the embedding of a new word",
    "ControlNet": "a ControlNet",
    "ControlNet of diffusers": "a ControlNet",
    "Control-LoRA": "a ControlNet",
    "VAE": "a VAE alone",
    "VAE alone": "a VAE alone",
    "VAE of diffusers": "a VAE alone",
    "UNet of diffusers": "a UNet alone",
    "UNet": "a whole model",
    "text encoder": "a text encoder alone",
    "checkpoint": "a whole model",
    "T2I-Adapter": "a T2I-Adapter",
    "T2I-Adapter of diffusers": "a T2I-Adapter",
    "IP-Adapter": "an IP-Adapter",
    "IP-Adapter of faces": "an IP-Adapter",
    "upscaler": "an upscaler",
    "CLIP of pictures": "a model of pictures (CLIP)",
    "motion module": "a motion module",
    "LoRA of Flux": "a LoRA",
    "model of Flux": "a model of Flux",
    "model of SD 3": "a model of Stable Diffusion 3",
    "language model": "a language model",
}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 134217728\n"
PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in to download.</body></html>"


def _damaged() -> dict[str, bytes]:
    whole = save({"lora_unet_x.lora_down.weight": torch.ones(4, 16)})
    length = int.from_bytes(whole[:8], "little")
    return {
        "empty": b"",
        "cut in the length": whole[:5],
        "cut in the header": whole[: 8 + length // 2],
        "cut in the tensors": whole[:-40],
        "too long": whole + b"more",
        "a header beyond the end": (2**40).to_bytes(8, "little") + whole[8:],
        "no JSON in the header": whole[:8] + b"x" * length + whole[8 + length :],
        "a pickle": pickle.dumps({"lora": 1}),
        "a page": PAGE,
        "a pointer": LFS,
    }


DAMAGED = _damaged()


def write_foreign(folder: Path, kind: str) -> Path:
    """Writes a file of a kind."""
    path = folder / f"{kind}.safetensors"
    if kind in DAMAGED:
        path.write_bytes(DAMAGED[kind])
    else:
        save_file({name: torch.ones(shape) for name, shape in SHAPES[kind].items()}, path)
    return path
