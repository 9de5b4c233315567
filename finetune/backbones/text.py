"""Captions to tokens, as each family's pipeline does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finetune.backbones.words import written_out


def token_length(tokenizers: Sequence[Any], encoders: Sequence[Any]) -> int:
    """Tokens of a caption, begin and end included: the smallest limit of any tokenizer or encoder."""
    lengths = [int(t.model_max_length) for t in tokenizers]
    positions = [int(e.config.max_position_embeddings) for e in encoders]
    return min(lengths + positions)


def tokenize(tokenizers: Sequence[Any], captions: Sequence[str], length: int) -> Tensor:
    """Token ids, truncated and padded to `length`, one plane per tokenizer.

    Returns:
        `[B, encoders, length]` int64. The planes differ: SDXL's second tokenizer pads with "!".
    """
    planes = [
        tokenizer(
            written_out(tokenizer, captions),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        for tokenizer in tokenizers
    ]
    return torch.stack(planes, dim=1)


def truncated(tokenizer: Any, caption: str, length: int) -> str | None:
    """The end of `caption` that does not fit into `length` tokens, in whole words; None if all fits."""
    caption = written_out(tokenizer, [caption])[0]
    # verbose=False: the tokenizer would warn of exactly what is checked here.
    encoded = tokenizer(caption, return_offsets_mapping=True, verbose=False)
    if len(encoded.input_ids) <= length:
        return None
    # Begin + (length - 2) tokens + end fit, so the first token lost has index length - 1.
    start = encoded.offset_mapping[length - 1][0]
    while start > 0 and not caption[start - 1].isspace():
        start -= 1  # report the whole word, not half of it
    return caption[start:].strip()
