"""New words of a model: tokens that its tokenizers do not know, with embeddings of their own.

A word of several vectors is written out as `<mycat> <mycat>_1 …` before it is tokenized, as diffusers
does it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor, nn

from finetune.diffusion.random import normal
from finetune.errors import ConfigError

if TYPE_CHECKING:
    from finetune.backbones.backbone import Backbone

MakeTable = Callable[[Any, int, Tensor], nn.Module]


@dataclass(frozen=True)
class Word:
    """A new word.

    Attributes:
        text: What prompts say, e.g. "<mycat>".
        rows: Its token embeddings, `[vectors, D]` fp32 for each text encoder.
    """

    text: str
    rows: tuple[Tensor, ...]

    @property
    def tokens(self) -> list[str]:
        """The tokens it is written out as: its text, then the text with `_1`, `_2` …."""
        return [self.text, *(f"{self.text}_{i}" for i in range(1, len(self.rows[0])))]


def written_out(tokenizer: Any, captions: Sequence[str]) -> list[str]:
    """Captions with every word of several vectors written out as its tokens."""
    if not any(token.endswith("_1") for token in tokenizer.added_tokens_encoder):
        return list(captions)
    converted: list[str] = TextualInversionLoaderMixin().maybe_convert_prompt(list(captions), tokenizer)
    return converted


class AddedWord:
    """A word that was added to a model: its tokenizers know it, its text encoders have rows for it.

    The old rows are not touched. Pooled text is taken at the end token, even if the published config is
    too old to name it (transformers would then take the highest id, which is the new word's).

    Args:
        backbone: Changed in place; its tokenizers become copies.
        word: The word and its embeddings.
        make: Makes the new table from the old one, the first new id and the rows; `grown` if None.

    Attributes:
        tables: The new table of each text encoder.

    Raises:
        ConfigError: If the model knows the word already; nothing is changed then.
    """

    def __init__(self, backbone: Backbone, word: Word, make: MakeTable | None = None) -> None:
        _check_unknown(backbone, word)
        self._backbone, self._tokenizers = backbone, backbone.tokenizers
        self._old: list[tuple[Any, Any, int]] = []
        self._ends: list[tuple[Any, int]] = []
        backbone.tokenizers = tuple(copy.deepcopy(tokenizer) for tokenizer in backbone.tokenizers)
        self.tables: list[Any] = []
        for tokenizer, encoder, rows in zip(
            backbone.tokenizers, backbone.text_encoders, word.rows, strict=True
        ):
            first = len(tokenizer)
            tokenizer.add_tokens(word.tokens)
            old = encoder.get_input_embeddings()
            self._old.append((encoder, old, encoder.config.vocab_size))
            self.tables.append((make or grown)(old, first, rows))
            encoder.set_input_embeddings(self.tables[-1])
            encoder.config.vocab_size = first + len(rows)
            for holder in _end_holders(encoder):
                self._ends.append((holder, holder.eos_token_id))
                holder.eos_token_id = tokenizer.eos_token_id

    def remove(self) -> None:
        """Takes the word out: tokenizers and text encoders are what they were before."""
        self._backbone.tokenizers = self._tokenizers
        for encoder, table, size in self._old:
            encoder.set_input_embeddings(table)
            encoder.config.vocab_size = size
        for holder, end in self._ends:
            holder.eos_token_id = end


def _end_holders(encoder: Any) -> list[Any]:
    """The objects whose `eos_token_id` says at which token a text encoder's pooled text is taken.

    The part of transformers' CLIP that pools (5.23: `CLIPTextModel`) keeps its own copy of the
    configuration's, which no public call changes. `tests/test_inside_libraries.py` checks it.
    """
    holders = (encoder.config, *encoder.modules())
    return [holder for holder in holders if isinstance(getattr(holder, "eos_token_id", None), int)]


def grown(old: nn.Embedding, first: int, rows: Tensor) -> nn.Embedding:
    """A frozen table: the old rows up to `first`, then the new ones."""
    before = old.weight.detach()[:first].float()  # half precision would round the new rows twice
    weight = torch.cat([before, rows.to(before)])
    table: nn.Embedding = nn.Embedding.from_pretrained(weight, freeze=True)
    return table


def initial_word(backbone: Backbone, text: str, vectors: int, initializer: str | None, seed: int) -> Word:
    """A word before it is learned.

    Args:
        backbone: The model.
        text: What prompts will say.
        vectors: Tokens it stands for.
        initializer: Words whose embeddings it starts from, repeated if they are fewer; drawn with the
            standard deviation of the model's own embeddings if None.
        seed: Of the drawn values.

    Raises:
        ConfigError: If the initializer has no tokens or more than the word, or the word more than fit into
            a caption.
    """
    if vectors > backbone.token_length - 2:
        raise ConfigError(
            f"A caption of this model has {backbone.token_length - 2} tokens, too few for {vectors} vectors.",
            where="adapter.vectors",
            fix="Use between 1 and 8.",
        )
    pairs = zip(backbone.tokenizers, backbone.text_encoders, strict=True)
    return Word(text, tuple(_rows(t, e, i, vectors, initializer, seed) for i, (t, e) in enumerate(pairs)))


def _rows(
    tokenizer: Any, encoder: Any, index: int, vectors: int, initializer: str | None, seed: int
) -> Tensor:
    table: Tensor = encoder.get_input_embeddings().weight.detach().float().cpu()
    if initializer is None:
        return normal(seed, [0], f"embedding/{index}", (vectors, table.shape[1]))[0] * table.std()
    ids = tokenizer(initializer, add_special_tokens=False).input_ids
    if not 0 < len(ids) <= vectors:
        raise ConfigError(
            f"The initializer {initializer!r} has {len(ids)} tokens, the new word {vectors}.",
            where="adapter.initializer",
            fix="Use a shorter word, such as the subject's class, or raise adapter.vectors.",
        )
    return table[[ids[i % len(ids)] for i in range(vectors)]].clone()


def _check_unknown(backbone: Backbone, word: Word) -> None:
    for tokenizer in backbone.tokenizers:
        vocabulary = tokenizer.get_vocab()
        if known := [t for t in word.tokens for form in (t, f"{t}</w>") if form in vocabulary]:
            raise ConfigError(
                f"The model knows the word {known[0]} already.",
                where="the new word",
                fix="Choose one that means nothing, in brackets, such as <mycat>.",
            )
