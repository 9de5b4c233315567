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


def tokenize(tokenizers: Sequence[Any], captions: Sequence[str], length: int, pieces: int) -> Tensor:
    """Token ids, one plane per tokenizer, truncated to so many pieces, each padded to `length`.

    Each piece has a begin and an end token of its own, also one that no text is left for.

    Returns:
        `[B, encoders, pieces x length]` int64. The planes differ: SDXL's second tokenizer pads with "!".
    """
    planes = [_plane(tokenizer, written_out(tokenizer, captions), length, pieces) for tokenizer in tokenizers]
    return torch.stack(planes, dim=1)


def _plane(tokenizer: Any, captions: list[str], length: int, pieces: int) -> Tensor:
    inside = length - 2
    whole = tokenizer(captions, add_special_tokens=False, verbose=False).input_ids
    starts = range(0, pieces * inside, inside)
    rows = [row[start : start + inside] for row in whole for start in starts]
    marked = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in rows]
    padded = tokenizer.pad(
        {"input_ids": marked}, padding="max_length", max_length=length, return_tensors="pt"
    )
    ids: Tensor = padded.input_ids.view(len(captions), pieces * length)
    return ids


def apart(tokens: Tensor, length: int) -> Tensor:
    """The pieces as rows: `[B, encoders, pieces x length]` to `[B x pieces, encoders, length]`."""
    rows: Tensor = tokens.unflatten(-1, (-1, length)).transpose(1, 2).flatten(0, 1)
    return rows


def together(hidden: Tensor, pooled: Tensor | None, rows: int) -> tuple[Tensor, Tensor | None]:
    """What was encoded piece by piece, as one sequence a caption; the pooled text is that of the first piece.

    So does A1111's web UI with long prompts (modules/sd_hijack_clip.py), which also moves what follows a late
    comma to the next piece.

    Args:
        hidden: `[rows x pieces, length, D]`.
        pooled: `[rows x pieces, P]`, or None.
        rows: How many captions there are.

    Returns:
        `[rows, pieces x length, D]` and `[rows, P]`.
    """
    first = None if pooled is None else pooled.unflatten(0, (rows, -1))[:, 0]
    return hidden.unflatten(0, (rows, -1)).flatten(1, 2), first


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
