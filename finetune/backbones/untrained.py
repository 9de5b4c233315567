"""A new, untrained Stable Diffusion 1 of any size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from finetune.backbones.backbone import Backbone
from finetune.backbones.clip_vocabulary import END, LETTERS, bpe_tokenizer
from finetune.backbones.folder import freeze
from finetune.backbones.sd import StableDiffusion
from finetune.config.pretrain import ArchitectureSection

# As in every published Stable Diffusion (Rombach et al. 2022, arXiv:2112.10752).
_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def untrained_backbone(
    section: ArchitectureSection, captions: Iterable[str], resolution: int, prediction_type: str, seed: int
) -> Backbone:
    """Random weights in the classes of Stable Diffusion 1, and a tokenizer learned from captions.

    Args:
        section: The sizes.
        captions: What the tokenizer learns its words from.
        resolution: Side in pixels of the pictures it is made for.
        prediction_type: `epsilon`, `v_prediction` or `sample`.
        seed: Of the weights; the global random state stays as it is.
    """
    sizes = section.sizes()
    tokenizer = make_tokenizer(captions, sizes["vocabulary"], sizes["tokens"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = make_autoencoder(sizes, resolution)
        text_encoder = _text_encoder(sizes, tokenizer)
        unet = _unet(sizes, resolution)
    scheduler = DDIMScheduler(
        **_SCHEDULE,
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    name = f"a new model ({section.size})"
    return freeze(StableDiffusion("sd1", name, unet, vae, (text_encoder,), (tokenizer,), scheduler))


def make_tokenizer(captions: Iterable[str], vocabulary: int, length: int) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer that takes any text; its merges are learned from `captions`.

    Frequent words become one token each; any other word is split into letters and common pieces, so a
    trigger word such as "mycat" has tokens of its own.

    Args:
        captions: Texts; how often each occurs counts.
        vocabulary: Maximum number of tokens, including the 512 of single bytes.
        length: Tokens of a text, begin and end included.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=LETTERS, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(Counter(captions).elements(), trainer)
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    return bpe_tokenizer(merges, END, length)


def make_autoencoder(sizes: dict[str, Any], resolution: int) -> AutoencoderKL:
    """An `AutoencoderKL` with random weights, without attention.

    Args:
        sizes: From `ArchitectureSection.sizes`.
        resolution: Side of the pictures in pixels; each level but the last halves it for the latents.
    """
    channels = tuple(sizes["autoencoder_channels"])
    return AutoencoderKL(
        sample_size=resolution,
        latent_channels=sizes["latent_channels"],
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        scaling_factor=1.0,
    )


def _text_encoder(sizes: dict[str, Any], tokenizer: CLIPTokenizer) -> CLIPTextModel:
    width = sizes["text_width"]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=sizes["text_layers"],
            num_attention_heads=width // 32,
            max_position_embeddings=sizes["tokens"],
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _unet(sizes: dict[str, Any], resolution: int) -> UNet2DConditionModel:
    channels, latent = tuple(sizes["unet_channels"]), sizes["latent_channels"]
    deeper = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=resolution // 2 ** (len(sizes["autoencoder_channels"]) - 1),
        in_channels=latent,
        out_channels=latent,
        layers_per_block=sizes["layers"],
        block_out_channels=channels,
        norm_num_groups=16,
        # No attention at the latents' full size: it costs more there than it gives.
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * deeper),
        up_block_types=(*["CrossAttnUpBlock2D"] * deeper, "UpBlock2D"),
        cross_attention_dim=sizes["text_width"],
        attention_head_dim=4,  # the number of heads, despite its name
    )
