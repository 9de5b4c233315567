"""The shape of the bundled model: a Stable Diffusion 1.x in every class, a few million parameters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from finetune.backbones import Backbone
from storybook.autoencoder import LATENT_CHANNELS
from storybook.pictures import SIZE

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS, VOCABULARY, WIDTH = 32, 900, 128
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer that takes any text; its merges are learnt from `captions`.

    The words of the world become one token each, any other word its letters and common pieces, so
    that a trigger word such as "mycat" has tokens of its own.
    """
    counts = Counter(captions)
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(counts.elements(), trainer)
    merges = _merges(learner)
    # Ids as in OpenAI's code: letters, letters that end a word, one token a merge, start, end last.
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges), START, END]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        pad_token=END,
        model_max_length=TOKENS,
    )


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def make_backbone(vae: AutoencoderKL, captions: Iterable[str], seed: int) -> Backbone:
    """An untrained text encoder and UNet around a trained autoencoder.

    Args:
        vae: With whitened latents.
        captions: What the tokenizer learns its merges from.
        seed: Seed of the initial weights.
    """
    tokenizer = make_tokenizer(captions)
    torch.manual_seed(seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 96, 128),
        norm_num_groups=16,
        # Attention where a latent stands for at least 8 x 8 pixels; above, it costs more than it gives.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(
        **SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    return Backbone(
        family="sd1",
        name="storybook",
        unet=unet,
        vae=vae,
        text_encoders=(text_encoder,),
        tokenizers=(tokenizer,),
        scheduler=scheduler,
    )
