"""Weights of words in prompts, as A1111 and Forge have them.

`(word)` weighs a word 1.1 times, `[word]` 1/1.1 times, `(word:1.3)` 1.3 times; brackets may be nested, one
that is not closed holds to the end, and a backslash makes a bracket an ordinary character. The rules are
those of A1111's documentation (Features, "Attention/emphasis"). Libraries such as compel have a form of their
own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.backbones.words import written_out

Fragments = list[tuple[str, float]]
"""Parts of a prompt, each with its weight."""

_STEP = 1.1
_NO_MEAN = 1e-3  # of the standard deviation
_PART = re.compile(r":\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*\)|\\[\\()\[\]]|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)
_TAG = re.compile(r"\s*<lora:([^:<>]+)(?::([^:<>]*))?((?::[^<>]*)?)>")
_EDITING = re.compile(r"(?<!\\)\[[^\[\]()]*(?:[^\\]:|\|)[^\[\]()]*\]")


def parse(prompt: str) -> Fragments:
    """The parts of a prompt, without brackets, in order."""
    parts: Fragments = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def weigh(first: int, factor: float) -> None:
        parts[first:] = [(text, weight * factor) for text, weight in parts[first:]]

    for match in _PART.finditer(prompt):
        part, number = match[0], match[1]
        if number is not None and opened["("]:
            weigh(opened["("].pop(), float(number))
        elif part in opened:
            opened[part].append(len(parts))
        elif part == ")" and opened["("]:
            weigh(opened["("].pop(), _STEP)
        elif part == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / _STEP)
        else:
            parts.append((part[1:] if len(part) == 2 and part[0] == "\\" else part, 1.0))
    for first in opened["("]:
        weigh(first, _STEP)
    for first in opened["["]:
        weigh(first, 1 / _STEP)
    return list(_joined(parts))


def _joined(parts: Fragments) -> Iterator[tuple[str, float]]:
    """Neighbors of one weight as one, so that no word is cut in two."""
    text, current = "", 1.0
    for part, weight in parts:
        if weight != current and text:
            yield text, current
            text = ""
        text, current = text + part, weight
    if text:
        yield text, current


def plain(fragments: Fragments) -> str:
    """The text that is tokenized: with spaces between, parts give the tokens that they give one by one."""
    return " ".join(text for text, _ in fragments)


def edits(prompt: str) -> list[str]:
    """What in a prompt means "change it between steps" to A1111, `[from:to:when]` and `[a|b]`."""
    return _EDITING.findall(prompt)


@dataclass(frozen=True)
class Tagged:
    """A prompt that may name LoRAs.

    Attributes:
        prompt: Without its `<lora:NAME:WEIGHT>`.
        loras: Names and weights of these; 1 if none is given.
        unread: What else they say, such as a second weight (for the UNet) or `lbw=` (by block).
    """

    prompt: str
    loras: tuple[tuple[str, float], ...]
    unread: tuple[str, ...]


def lora_tags(prompt: str) -> Tagged:
    """Takes the `<lora:NAME:WEIGHT>` out of a prompt.

    Raises:
        ValueError: A weight is not a number.
    """
    tags = _TAG.findall(prompt)
    loras = tuple((name.strip(), float(weight or 1)) for name, weight, _ in tags)
    return Tagged(_TAG.sub("", prompt).strip(), loras, tuple(more[1:] for *_, more in tags if more))


def weighed(backbone: Backbone, hidden: Tensor, prompts: Sequence[Fragments]) -> Tensor:
    """Text embeddings with the weights of their words.

    Each token's embedding is multiplied by its weight, and each piece of 75 tokens then scaled so that its
    mean is what it was, as A1111 does for each text encoder. The pooled text has no weights.

    Args:
        backbone: The model that encoded them.
        hidden: `[B, T, D]`.
        prompts: The `B` prompts.

    Returns:
        `[B, T, D]`.
    """
    widths = [encoder.config.hidden_size for encoder in backbone.text_encoders]
    rows = [row for row, parts in enumerate(prompts) if any(weight != 1 for _, weight in parts)]
    result = hidden.clone()
    for row in rows:
        planes = zip(backbone.tokenizers, hidden[row].split(widths, dim=-1), strict=True)
        result[row] = torch.cat([_scaled(backbone, t, plane, prompts[row]) for t, plane in planes], dim=-1)
    return result


def _scaled(backbone: Backbone, tokenizer: object, plane: Tensor, parts: Fragments) -> Tensor:
    pieces = plane.unflatten(0, (-1, backbone.token_length))
    weights = _token_weights(tokenizer, parts, *pieces.shape[:2]).to(plane)
    scaled = pieces * weights[..., None]
    before, after = (values.mean(dim=(1, 2), keepdim=True) for values in (pieces, scaled))
    # Where the mean is zero but for rounding, as after a norm without bias, there is nothing to restore.
    usual = torch.minimum(before.abs(), after.abs()) > _NO_MEAN * pieces.std()
    kept: Tensor = torch.where(usual, scaled * before / after, scaled).flatten(0, 1)
    return kept


def _token_weights(tokenizer: object, parts: Fragments, pieces: int, length: int) -> Tensor:
    """`[pieces, length]`; begin, end and padding weigh 1."""
    texts = written_out(tokenizer, [text for text, _ in parts])
    ids = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids  # type: ignore[operator]
    each = [weight for row, (_, weight) in zip(ids, parts, strict=True) for _ in row]
    weights, inside = torch.ones(pieces, length), length - 2
    for piece in range(pieces):
        values = torch.tensor(each[piece * inside : (piece + 1) * inside])
        weights[piece, 1 : 1 + len(values)] = values
    return weights
