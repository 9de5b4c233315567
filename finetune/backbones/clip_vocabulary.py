"""CLIP's tokenizer, made from the merges that ship with the package (single-file checkpoints have none)."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files
from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from finetune.backbones.families import Family

START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
"""A visible character for each byte; the printable Latin-1 ones, which stand for themselves, come first."""


def clip_tokenizers(family: Family) -> tuple[CLIPTokenizer, ...]:
    """The tokenizers of a published model, one for each text encoder: 49,408 byte-level tokens, 77 at most.

    They differ in what captions are padded with: the end token (CLIP ViT-L) or "!" (OpenCLIP's models).
    """
    pads = {"sd1": (END,), "sd2": ("!",), "sdxl": (END, "!")}[family]
    return tuple(bpe_tokenizer(_merges(), pad, 77) for pad in pads)


def bpe_tokenizer(merges: Any, pad: str, length: int) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer.

    Args:
        merges: Pairs of tokens (transformers' annotation says strings), the most frequent first.
        pad: The padding token.
        length: Tokens of a text, begin and end included.
    """
    # Ids as in OpenAI's code: all bytes, all bytes that end a word, one token per merge, start, end.
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *map("".join, merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=length)


@cache
def _merges() -> list[tuple[str, ...]]:
    packed = files("finetune.backbones").joinpath("published/clip/merges.txt.gz").read_bytes()
    return [tuple(line.split()) for line in gzip.decompress(packed).decode("utf-8").splitlines()]
