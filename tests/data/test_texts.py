"""Tokens and embeddings of captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from finetune.data.cache import ContentCache
from finetune.data.texts import HiddenTexts, TokenTexts

if TYPE_CHECKING:
    from finetune.backbones import Backbone

CAPTIONS = ["a red cat", "", "a photo of mycat", "a red cat"]


def test_tokens_are_the_backbones(backbone: Backbone) -> None:
    texts = TokenTexts(backbone)
    texts.prepare(["a photo of mycat", "something else"])
    conditioning = texts.conditioning(CAPTIONS)
    assert conditioning.tokens is not None
    assert conditioning.tokens.dtype == torch.int64
    assert torch.equal(conditioning.tokens, backbone.tokenize(CAPTIONS))
    assert conditioning.hidden is None


@pytest.mark.parametrize("kind", [TokenTexts, HiddenTexts])
def test_many_captions_are_prepared_some_at_once(
    loaded: dict[str, Backbone], kind: type[TokenTexts | HiddenTexts]
) -> None:
    heard: list[tuple[int, int]] = []
    captions = [f"cat {i}" for i in range(1500)]
    texts = TokenTexts(loaded["sd1"]) if kind is TokenTexts else HiddenTexts(loaded["sd1"], ContentCache())
    texts.prepare([*captions, "cat 3"], lambda done, of: heard.append((done, of)))
    done = [d for d, _ in heard]
    assert len(done) > 1 and done == sorted(set(done)) and done[0] > 0
    assert {of for _, of in heard} == {done[-1]} == {1500}
    if kind is TokenTexts:
        tokens = texts.conditioning(["cat 1499", "cat 0"]).tokens
        assert tokens is not None and torch.equal(tokens, loaded["sd1"].tokenize(["cat 1499", "cat 0"]))


@pytest.mark.parametrize("kept", ["not", "in memory", "on disk"])
def test_embeddings_are_the_backbones(backbone: Backbone, tmp_path: Path, kept: str) -> None:
    cache = None if kept == "not" else ContentCache(tmp_path if kept == "on disk" else None)
    with torch.no_grad():
        hidden, pooled = backbone.encode_text(backbone.tokenize(CAPTIONS))
    texts = HiddenTexts(backbone, cache)
    texts.prepare(CAPTIONS)
    if kept == "on disk":
        texts = HiddenTexts(backbone, ContentCache(tmp_path))
    if cache is not None:
        backbone.encode_text = None  # type: ignore[method-assign,assignment]
    conditioning = texts.conditioning(CAPTIONS)
    assert conditioning.tokens is None
    assert conditioning.hidden is not None
    torch.testing.assert_close(conditioning.hidden, hidden)
    assert (conditioning.pooled is None) == (pooled is None)
    if pooled is not None:
        torch.testing.assert_close(conditioning.pooled, pooled)


def test_another_text_encoder_does_not_find_the_embedding(backbone: Backbone, tmp_path: Path) -> None:
    before = HiddenTexts(backbone, ContentCache(tmp_path)).conditioning(["a cat"]).hidden
    with torch.no_grad():
        for parameter in backbone.text_encoders[0].parameters():
            parameter += 0.01
    after = HiddenTexts(backbone, ContentCache(tmp_path)).conditioning(["a cat"]).hidden
    with torch.no_grad():
        expected, _ = backbone.encode_text(backbone.tokenize(["a cat"]))
    assert before is not None
    assert after is not None
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(after, expected)


def test_another_precision_does_not_find_the_embedding(backbone: Backbone, tmp_path: Path) -> None:
    wide = HiddenTexts(backbone, ContentCache(tmp_path)).conditioning(["a cat"]).hidden
    backbone.to("cpu", torch.bfloat16)
    narrow = HiddenTexts(backbone, ContentCache(tmp_path)).conditioning(["a cat"]).hidden
    expected, _ = backbone.encode_text(backbone.tokenize(["a cat"]))
    assert wide is not None and narrow is not None
    assert torch.equal(narrow, expected.float()) and not torch.equal(narrow, wide)


def test_progress_ends_at_the_number_of_distinct_captions(backbone: Backbone) -> None:
    seen: list[tuple[int, int]] = []
    captions = [f"cat {i}" for i in range(70)] * 2
    HiddenTexts(backbone, ContentCache()).prepare(captions, lambda *at: seen.append(at))
    assert seen == [(64, 70), (70, 70)]
