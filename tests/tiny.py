"""Tiny random models with the true structure of each family, written as diffusers folders.

Block types, layers per block, projections, text encoders, tokenizers (with each family's own
padding), scheduler and prediction type are those of the published models; only the widths are small.
Pictures are 32 px (8x8 latents, VAE factor 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from finetune.adapters import Adapter
from tests.families import FAMILIES as FAMILIES
from tests.families import Family

LAYERS = 3  # of every text encoder
BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [table[b] for b in printable + others]


def tiny_tokenizer(pad: str = "<|endoftext|>", length: int = 77) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer that accepts any text and has a few merges."""
    letters = byte_alphabet()
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>")]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    # As in OpenAI's vocabulary: "!" is 0 and the end token has the highest id (pooling relies on it).
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=merges,
        pad_token=pad,
        model_max_length=length,
    )


def _text_config(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextConfig:
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "projection_dim": 16,
        "hidden_act": "quick_gelu",
        # The published configs have 0, 2 and 1, whatever the tokenizer's ids are.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    return CLIPTextConfig(**(settings | changes))


def _unet(**changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (4, 8, 16, 16),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**(settings | changes))


def _vae(**changes: Any) -> AutoencoderKL:
    settings: dict[str, Any] = {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    return AutoencoderKL(**(settings | changes))


def _sd1() -> StableDiffusionPipeline:
    tokenizer = tiny_tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd2() -> StableDiffusionPipeline:
    # SD 2's OpenCLIP has 24 layers; the published text encoder keeps 23, so its last hidden
    # state is OpenCLIP's penultimate one. It pads with "!".
    tokenizer = tiny_tokenizer(pad="!")
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer, hidden_act="gelu", num_hidden_layers=LAYERS - 1)),
        tokenizer=tokenizer,
        unet=_unet(attention_head_dim=(1, 2, 2, 2), use_linear_projection=True, upcast_attention=True),
        scheduler=DDIMScheduler(
            prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False, **BETAS
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> StableDiffusionXLPipeline:
    first, second = tiny_tokenizer(), tiny_tokenizer(pad="!")
    pooled, time_width = 24, 8
    return StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_text_config(first)),
        text_encoder_2=CLIPTextModelWithProjection(
            _text_config(second, hidden_size=24, hidden_act="gelu", projection_dim=pooled)
        ),
        tokenizer=first,
        tokenizer_2=second,
        unet=_unet(
            block_out_channels=(4, 8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 3),
            attention_head_dim=(1, 2, 4),
            cross_attention_dim=16 + 24,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_width,
            projection_class_embeddings_input_dim=pooled + 6 * time_width,
        ),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
        add_watermarker=False,
    )


def tiny_pipeline(family: Family, seed: int = 0) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """A tiny random pipeline of `family`, the same for the same seed; the global RNG is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl}[family]()


def tiny_inpainting_folder(family: Family, folder: Path, seed: int = 0) -> Path:
    """As `tiny_backbone_folder`, the inpainting model: the same but for its UNet, which takes 9 channels."""
    path, plain = folder / family, tiny_pipeline(family, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel.from_config(dict(plain.unet.config), in_channels=9)
    kind: Any = StableDiffusionXLInpaintPipeline if family == "sdxl" else StableDiffusionInpaintPipeline
    options = {"add_watermarker": False} if family == "sdxl" else {"requires_safety_checker": False}
    kind(**plain.components | {"unet": unet}, **options).save_pretrained(path)
    return path


def tiny_backbone_folder(family: Family, folder: Path, seed: int = 0) -> Path:
    """Writes a tiny random model of `family` into `folder/family` as a diffusers folder."""
    path = folder / family
    tiny_pipeline(family, seed).save_pretrained(path)
    return path


T = TypeVar("T")


def only(batches: Sequence[T]) -> T:
    """The batch of samples that have one shape."""
    (batch,) = batches
    return batch


@torch.no_grad()
def load_state(adapter: Adapter, state: Mapping[str, Tensor]) -> None:
    """Gives an adapter other values, by the names of `Adapter.trained`."""
    for name, parameter in adapter.trained().items():
        parameter.copy_(state[name])
