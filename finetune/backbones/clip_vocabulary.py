"""CLIP's tokenizer, made from the merges that ship with the package (single-file checkpoints hold none)."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files
from typing import Any

from transformers import CLIPTokenizer

from finetune.backbones.families import Family

START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizers(family: Family) -> tuple[CLIPTokenizer, ...]:
    """The tokenizers of a published model, one for each text encoder."""
    pads = {"sd1": (END,), "sd2": ("!",), "sdxl": (END, "!")}[family]
    return tuple(clip_tokenizer(pad) for pad in pads)


def clip_tokenizer(pad: str = END) -> CLIPTokenizer:
    """The tokenizer of all published Stable Diffusion models: 49,408 byte-level BPE tokens, 77 at most.

    Args:
        pad: What captions are filled up with: the end token (CLIP ViT-L) or "!" (OpenCLIP's models).
    """
    merges: Any = _merges()  # pairs, though the annotation says strings
    # Ids as in OpenAI's code: all bytes, all bytes that end a word, one token per merge, start, end.
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m) for m in merges), START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)


@cache
def _merges() -> list[tuple[str, str]]:
    packed = files("finetune.backbones").joinpath("published/clip/merges.txt.gz").read_bytes()
    pairs = (line.split() for line in gzip.decompress(packed).decode("utf-8").splitlines())
    return [(left, right) for left, right in pairs]


def _byte_letters() -> list[str]:
    """A visible character for each byte, the printable Latin-1 ones (which stand for themselves) first."""
    printable = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace()]
    hidden = 256 - len(printable)
    return [*map(chr, printable), *map(chr, range(256, 256 + hidden))]
