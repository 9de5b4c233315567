"""The bundled byte-level vocabulary is CLIP's own."""

from __future__ import annotations

import pytest

from finetune.backbones.clip_vocabulary import clip_tokenizer


def test_it_is_clips_vocabulary() -> None:
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77
    # The ids that every Stable Diffusion has been shown for these words.
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Hello   WORLD").input_ids == [49406, 3306, 1002, 49407]


@pytest.mark.parametrize(("pad", "number"), [("<|endoftext|>", 49407), ("!", 0)])
def test_padding(pad: str, number: int) -> None:
    assert clip_tokenizer(pad)("a", padding="max_length").input_ids[-1] == number


def test_any_text_is_taken() -> None:
    text = "ünï 漢字 🐈"
    tokenizer = clip_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
