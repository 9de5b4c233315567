"""Files of new words (textual inversion), ours or someone else's.

| keys | read by |
|---|---|
| the word itself, `[n, D]` | diffusers, where the key is the word; A1111, ComfyUI |
| `emb_params`, `[n, D]` | A1111, Forge, ComfyUI, InvokeAI; the file's name is the word |
| `clip_l` and `clip_g` (SDXL) | A1111, Forge, ComfyUI, InvokeAI; diffusers, one encoder at a time |
| `string_to_param` in a pickle, `[n, D]` under `*` | A1111, which wrote it; read on the user's word |
| `bundle_emb.WORD.string_to_param.*`, `bundle_emb.WORD.clip_l` … in a LoRA's file | A1111 |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.backbones.kinds import kind_of
from finetune.backbones.part import PICKLES, pickle_refused
from finetune.backbones.tensors import read_tensors
from finetune.backbones.words import Word
from finetune.errors import WeightsError
from finetune.formats.families import FAMILY_NAMES, TITLES
from finetune.formats.first_layout import is_first_layout
from finetune.formats.tensors import check_floats, damaged, write_tensors

DIFFUSERS_EMBEDDING = "learned_embeds.safetensors"
ENCODERS = ("clip_l", "clip_g")
PLAIN = "emb_params"
WORD_KEY = "finetune.placeholder"
BUNDLE = "bundle_emb"
A1111 = "string_to_param.*"
NAMELESS = {PLAIN, A1111, "*", "string_to_param"}


def write_embedding(path: Path, word: Word, metadata: Mapping[str, str], *, named: bool) -> None:
    """Writes a word's embeddings.

    Args:
        path: The file; it appears whole or not at all.
        word: What has been learned.
        metadata: How the file was made (`formats.metadata`).
        named: Whether the key is the word, for diffusers, or `emb_params`, for the others. For a model
            with two text encoders, the keys are `clip_l` and `clip_g` either way.
    """
    tensors = _by_encoder(word) if len(word.rows) > 1 else {word.text if named else PLAIN: word.rows[0]}
    write_tensors(path, tensors, {"format": "pt", **metadata, WORD_KEY: word.text})


def bundle(word: Word) -> dict[str, Tensor]:
    """A word's embeddings as tensors in a LoRA's file with kohya's key names."""
    tensors = _by_encoder(word) if len(word.rows) > 1 else {A1111: word.rows[0]}
    return {f"{BUNDLE}.{word.text}.{key}": tensor for key, tensor in tensors.items()}


def bundled_words(
    tensors: Mapping[str, Tensor], file: Path, backbone: Backbone
) -> tuple[tuple[Word, ...], dict[str, Tensor]]:
    """The words in a LoRA's file, and its other tensors.

    Raises:
        WeightsError: If a word does not fit the model.
    """
    numbered = is_first_layout(tensors)  # there, words are beside the layers
    found: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        first, _, tail = key.partition(".")
        text, _, rest = tail.partition(".")
        if numbered and key.startswith("<"):
            found.setdefault(key, {})[A1111] = tensor
        elif first == BUNDLE and text and rest:
            found.setdefault(text, {})[rest] = tensor
        else:
            others[key] = tensor
    return tuple(_word(text, rows, file, backbone) for text, rows in found.items()), others


def learned_words(path: Path) -> Path | None:
    """The file of new words in a run folder or a diffusers folder, if there is one."""
    file = path / DIFFUSERS_EMBEDDING
    return file if file.is_file() else None


def read_embedding(
    path: str | Path, backbone: Backbone, text: str | None = None, *, allow_pickle: bool = False
) -> Word:
    """Reads a word for `backbone`, which is not changed.

    Args:
        path: A safetensors file, a folder with `learned_embeds.safetensors`, or a pickle, as A1111 once
            wrote them.
        backbone: The model that it is to be used with.
        text: The word to use in prompts; if None, the one in the file, else the file's name.
        allow_pickle: The user's explicit permission; even then only weights are unpickled, no code (P6).

    Raises:
        WeightsError: If there is no such file, it is damaged, holds no embeddings, or does not fit.
        ModelError: If it is a pickle without permission.
    """
    given = Path(path)
    file = learned_words(given) or given
    if not file.is_file():
        raise WeightsError(
            "There is no such embedding.",
            where=str(given),
            fix="Give a safetensors file or the folder of a finished run that learned a word.",
        )
    if file.suffix in PICKLES:
        if not allow_pickle:
            raise pickle_refused(file)
        tensors, metadata = _unpickle(file)
    else:
        tensors, metadata = read_tensors(file)
    if is_first_layout(tensors):
        raise WeightsError(
            "This file holds a LoRA, with the words that were learned with it.",
            where=str(file),
            fix="Give it with --lora: its words are then known too.",
        )
    if not is_embedding(tensors) and not _may_be_embedding(tensors):
        kind = kind_of(tensors)
        raise WeightsError(
            f"This file holds {kind.what}, and no embeddings of a new word."
            if kind
            else "This file holds no embeddings of a new word.",
            where=str(file),
            fix=(kind and kind.use) or "Give a file with the embeddings of a word.",
        )
    only = next(iter(tensors))
    own = metadata.get(WORD_KEY) or (only if len(tensors) == 1 and only not in NAMELESS else file.stem)
    return _word(text or own, tensors, file, backbone)


def _unpickle(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The embeddings in A1111's `string_to_param`, or in diffusers' `{"<word>": tensor}`."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        rows = content.get(A1111.removesuffix(".*"), content)
        return {key: value.detach() for key, value in rows.items() if isinstance(value, Tensor)}, {}
    except Exception as error:  # of zip, pickle and torch, or the content is something else
        raise WeightsError(
            f"This file cannot be read as plain weights ({type(error).__name__}).",
            where=str(file),
            fix="Get the .safetensors version of the word.",
        ) from error


def is_embedding(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names surely holds the embeddings of a new word."""
    return any(name in (*ENCODERS, *NAMELESS) or name.startswith("<") for name in names)


def _may_be_embedding(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file could be diffusers', with one tensor under any word."""
    return len(tensors) == 1 and all("." not in key and value.ndim <= 2 for key, value in tensors.items())


def _by_encoder(word: Word) -> dict[str, Tensor]:
    return dict(zip(ENCODERS, word.rows, strict=True))


def _word(text: str, tensors: Mapping[str, Tensor], file: Path, backbone: Backbone) -> Word:
    keys = [key for key in ENCODERS if key in tensors]
    check_floats({key: tensors[key] for key in keys or tensors}, file)
    rows = tuple(tensors[key].float() for key in keys or tensors)
    rows = tuple(row[None] if row.ndim == 1 else row for row in rows)
    if any(row.ndim != 2 or row.numel() == 0 for row in rows):
        raise damaged(f"The embeddings of {text} are not rows of numbers.", file)
    widths = tuple(encoder.config.hidden_size for encoder in backbone.text_encoders)
    if not all(torch.isfinite(row).all() for row in rows):
        raise damaged("The embeddings hold NaN or infinite values.", file)
    if tuple(row.shape[-1] for row in rows) != widths or len({len(row) for row in rows}) != 1:
        shapes = " and ".join(str(tuple(row.shape)) for row in rows)
        made = "SDXL" if len(rows) > 1 else TITLES.get(rows[0].shape[-1])
        other = made and made != FAMILY_NAMES[backbone.family].title
        origin = f" They seem to be made for {made}." if other else ""
        raise WeightsError(
            f"The embeddings of {text} have the shapes {shapes}, but {backbone.name} needs a width of "
            f"{' and '.join(map(str, widths))}.{origin}",
            where=str(file),
            fix="Choose the model it was made for with --model.",
        )
    return Word(text, rows)
