"""The bundled byte-level vocabulary is CLIP's own."""

from __future__ import annotations

from finetune.backbones.clip_vocabulary import clip_tokenizers


def test_it_is_clips_vocabulary() -> None:
    (tokenizer,) = clip_tokenizers("sd1")
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77
    # The ids that every Stable Diffusion has been shown for these words.
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Hello   WORLD").input_ids == [49406, 3306, 1002, 49407]


def test_padding() -> None:
    padded = [t("a", padding="max_length").input_ids[-1] for t in clip_tokenizers("sdxl")]
    assert padded == [49407, 0]
    (tokenizer,) = clip_tokenizers("sd2")
    assert tokenizer("a", padding="max_length").input_ids[-1] == 0


def test_any_text_is_taken() -> None:
    text = "ünï 漢字 🐈"
    (tokenizer,) = clip_tokenizers("sd1")
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
