"""Words added to a model, as diffusers adds them."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from finetune.backbones import Backbone
from finetune.backbones.words import AddedWord, Word, written_out
from finetune.errors import ConfigError


def word(backbone: Backbone, text: str = "<mycat>", vectors: int = 2) -> Word:
    drawn = torch.Generator().manual_seed(0)
    widths = [encoder.config.hidden_size for encoder in backbone.text_encoders]
    return Word(text, tuple(torch.randn(vectors, width, generator=drawn) for width in widths))


@pytest.mark.parametrize("family", ["sd1", "sd2"], indirect=True)
@torch.no_grad()
def test_tokens_and_embeddings_are_those_of_diffusers(backbone: Backbone, tiny_folder: object) -> None:
    added = word(backbone)
    AddedWord(backbone, added)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
    pipeline.load_textual_inversion({added.text: added.rows[0]})
    prompts = ["a <mycat> and a dog", "a dog", "<mycat>, <mycat>"]
    theirs = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)[0]
    hidden, _ = backbone.encode_text(backbone.tokenize(prompts))
    torch.testing.assert_close(hidden, theirs)


def test_pooled_text_is_taken_at_the_end(backbone: Backbone) -> None:
    """Words of a higher id than the end token do not draw it to themselves."""
    if len(backbone.text_encoders) == 1:
        pytest.skip("this family has no pooled text")
    rows = tuple(
        encoder.get_input_embeddings().weight[[5, 6]].detach().clone() for encoder in backbone.text_encoders
    )
    letters = backbone.tokenizers[0].convert_ids_to_tokens([5, 6])
    known = backbone.tokenize(["x"])
    known[:, :, 1:3] = torch.tensor([5, 6])
    known[:, :, 3] = backbone.tokenizers[0].eos_token_id
    added = AddedWord(backbone, Word("<mycat>", rows))
    with torch.no_grad():
        as_word = backbone.encode_text(backbone.tokenize(["<mycat>"]))[1]
        as_letters = backbone.encode_text(known)[1]
    assert letters and as_word is not None and as_letters is not None
    torch.testing.assert_close(as_word, as_letters)
    added.remove()
    assert backbone.text_encoders[1].config.eos_token_id == 2


def test_several_words_and_their_removal(backbone: Backbone) -> None:
    fingerprint, length = backbone.fingerprint_text(), len(backbone.tokenizers[0])
    first = AddedWord(backbone, word(backbone))
    with_first = backbone.fingerprint_text()
    second = AddedWord(backbone, word(backbone, "<hat>", 1))
    assert written_out(backbone.tokenizers[0], ["<mycat> with <hat>"]) == ["<mycat> <mycat>_1 with <hat>"]
    ids = backbone.tokenize(["<mycat> <hat>"])[0, 0]
    assert ids[1:4].tolist() == [length, length + 1, length + 2]
    for known in ("<mycat>", "<hat>"):
        with pytest.raises(ConfigError, match="knows the word"):
            AddedWord(backbone, word(backbone, known))
    second.remove()
    assert backbone.fingerprint_text() == with_first != fingerprint
    first.remove()
    assert backbone.fingerprint_text() == fingerprint


def test_lost_words_are_counted_with_all_vectors(backbone: Backbone) -> None:
    AddedWord(backbone, word(backbone, vectors=60))
    assert backbone.truncated("<mycat> is a cat") is None
    assert backbone.truncated("<mycat> is 0123456789 lost") == "lost"
