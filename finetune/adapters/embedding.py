"""Textual inversion: the token embeddings of a new word (Gal et al. 2022, arXiv:2208.01618)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.adapters.base import Adapter
from finetune.backbones.words import AddedWord, Word, initial_word
from finetune.config import EmbeddingSection, LoRASection
from finetune.errors import ConfigError

if TYPE_CHECKING:
    from finetune.backbones import Backbone

GROUP = "embedding"


class LearnedEmbedding(nn.Module):
    """A frozen table of token embeddings followed by a few trained fp32 rows.

    Args:
        known: The pretrained table; left alone, so that no optimizer can move or decay its rows.
        first: The id of the first new row.
        rows: `[n, D]`, the new rows' initial values.
    """

    def __init__(self, known: nn.Module, first: int, rows: Tensor) -> None:
        super().__init__()
        self.known, self.first, self.off = known, first, False
        device = next(known.parameters()).device
        self.new = nn.Parameter(rows.to(device, torch.float32, copy=True))
        self.register_buffer("start", self.new.detach().clone(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids `[B, T]` to embeddings `[B, T, D]` in the dtype of the pretrained ones."""
        known: Tensor = self.known(ids.clamp(max=self.first - 1))
        table = self.start if self.off else self.new
        new = F.embedding((ids - self.first).clamp(min=0), table).to(known.dtype)  # type: ignore[arg-type]
        return torch.where((ids >= self.first).unsqueeze(-1), new, known)


class NewWord(AddedWord):
    """A word on a backbone whose embeddings are trained.

    Args:
        backbone: Changed in place.
        word: The word with its initial embeddings.

    Raises:
        ConfigError: If the model already knows the word; nothing is changed then.
    """

    def __init__(self, backbone: Backbone, word: Word) -> None:
        super().__init__(backbone, word, LearnedEmbedding)
        self._text = word.text
        self._roots = [root for root in backbone.module_roots() if root != "unet"]

    def trained(self) -> dict[str, nn.Parameter]:
        """The new rows, named "embedding.text_encoder" and, for SDXL, "embedding.text_encoder_2"."""
        return {f"{GROUP}.{root}": table.new for root, table in zip(self._roots, self.tables, strict=True)}

    def switch(self, on: bool) -> None:
        """Uses the learned rows, or the initial ones."""
        for table in self.tables:
            table.off = not on

    def value(self) -> Word:
        """The word with a copy of what has been learned, on the CPU."""
        return Word(self._text, tuple(table.new.detach().to("cpu", copy=True) for table in self.tables))


class TextualInversion(Adapter):
    """Trains the embeddings of a new word and nothing else.

    Args:
        backbone: The pretrained model, in any dtype; the word is added to it.
        section: The word and its initializer; its placeholder must be set.
        seed: Seed of random initial embeddings.

    Raises:
        ConfigError: If the word is not new or the initializer does not fit it; nothing is changed then.
    """

    def __init__(self, backbone: Backbone, section: EmbeddingSection, seed: int = 0) -> None:
        super().__init__(backbone, trains_text=True)
        word = make_word(backbone, section, seed)
        if word is None:
            raise ConfigError("No new word is named.", where="adapter.placeholder", fix="Use e.g. <mycat>.")
        self._word = word
        for module in backbone.module_roots().values():
            module.requires_grad_(False)
        for parameter in self.trained().values():
            parameter.requires_grad_(True)

    def trained(self) -> dict[str, nn.Parameter]:
        """The rows of each text encoder."""
        return self._word.trained()

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, the word has its initial embeddings."""
        self._word.switch(False)
        try:
            yield
        finally:
            self._word.switch(True)

    def word(self) -> Word:
        """What has been learned, as plain values for the file formats."""
        return self._word.value()

    def detach(self) -> None:
        """Removes the word: the backbone is then, to the bit, what it was before."""
        self._word.remove()


def make_word(backbone: Backbone, section: EmbeddingSection | LoRASection, seed: int) -> NewWord | None:
    """The new word that a section names, added to the backbone; None if it names none.

    Raises:
        ConfigError: See `TextualInversion`.
    """
    if section.placeholder is None:
        return None
    word = initial_word(backbone, section.placeholder, section.vectors, section.initializer, seed)
    return NewWord(backbone, word)
