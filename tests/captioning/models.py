"""Tiny random vision models, one for each way in which a model is asked about a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIDE = 16  # pixels that the models see
WORDS = ["a", "red", "blue", "cat", "dog", "hat", "snow", "beach", "on", "in", "with", "and", "big", "photo"]
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} photo{% endif %}"
)


def blip(folder: Path) -> Path:
    """Describes a picture without being asked, or continues a prompt."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, bos_token="[DEC]")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}
    text = BlipTextConfig(vocab_size=len(vocabulary), encoder_hidden_size=16, **ids, **small)
    vision = BlipVisionConfig(image_size=SIDE, patch_size=8, **small)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    images = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _saved(BlipForConditionalGeneration, config, BlipProcessor(images, tokenizer), folder)


def florence(folder: Path) -> Path:
    """Does one of a few tasks."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
    tokenizer = _tokenizer(special, bos_token="<s>", eos_token="</s>", image_token="<image>")
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=64,
    )
    four = dict.fromkeys(("depths", "embed_dim", "num_heads", "num_groups"), (1, 1, 1, 1))
    vision = four | {"embed_dim": (8, 8, 8, 8), "window_size": 4, "projection_dim": 16}
    config = Florence2Config(text_config=text.to_dict(), vision_config=vision, image_token_id=4)
    images = _clip_images()
    images.image_seq_length = 2
    return _saved(Florence2ForConditionalGeneration, config, Florence2Processor(images, tokenizer), folder)


def llava(folder: Path) -> Path:
    """Answers in a chat."""
    tokenizer = _tokenizer(["<unk>", "<pad>", "<s>", "</s>", "<image>"], bos_token="<s>", eos_token="</s>")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3, pad_token_id=1, **small)
    vision = CLIPVisionConfig(image_size=SIDE, patch_size=8, **(small | {"num_hidden_layers": 2}))
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    processor = LlavaProcessor(
        _clip_images(),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    )
    return _saved(LlavaForConditionalGeneration, config, processor, folder)


MODELS: dict[str, Callable[[Path], Path]] = {"blip": blip, "florence": florence, "llava": llava}


def _tokenizer(special: list[str], **tokens: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        **{name: token for name, token in tokens.items() if name != "image_token"},
    )


def _clip_images() -> Any:
    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size=side, crop_size=side)


def _saved(kind: Any, config: Any, processor: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # far from zero, so that what is said depends on the picture
                torch.nn.init.normal_(parameter, std=1.0)
    # A random model would say special tokens as often as words.
    special = sorted({*processor.tokenizer.all_special_ids} - {model.generation_config.forced_eos_token_id})
    if isinstance(model, BlipForConditionalGeneration):  # its decoder does not read the configuration
        model.text_decoder.cls.predictions.bias.data[special] = -1000
    else:
        model.generation_config.suppress_tokens = special
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
