"""Captions → conditioning: token ids for trained text encoders, embeddings of frozen ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.data.cache import ContentCache, Row, content_key
from finetune.data.encoded import Encoded, Progress, chunked
from finetune.diffusion.batch import Conditioning

if TYPE_CHECKING:
    from finetune.backbones import Backbone

_AT_ONCE = 64


class TokenTexts:
    """Token ids, each caption tokenized once; for text encoders that are trained.

    Args:
        backbone: Whose tokenizers are used.
        keep: Whether captions come again; if not, each is tokenized every time.
    """

    found: tuple[int, int] | None = None
    """Of captions that are encoded; here none are."""

    def __init__(self, backbone: Backbone, *, keep: bool = True) -> None:
        self._backbone, self._keep = backbone, keep
        self._rows: dict[str, int] = {}
        self._table: Tensor | None = None

    def prepare(self, captions: Sequence[str], progress: Progress | None = None) -> None:
        """Tokenizes those captions that are new, if they are kept."""
        if not self._keep:
            return
        new = [c for c in dict.fromkeys(captions) if c not in self._rows]
        if not new:
            return
        tables = [] if self._table is None else [self._table]
        for start in range(0, len(new), 1024):
            # int32 halves the table; there may be hundreds of thousands of captions
            tables.append(self._backbone.tokenize(new[start : start + 1024]).to(torch.int32).cpu())
            if progress:
                progress(min(start + 1024, len(new)), len(new))
        self._rows |= {caption: len(self._rows) + i for i, caption in enumerate(new)}
        self._table = torch.cat(tables)

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        """`tokens` `[B, encoders, T]` int64."""
        if not self._keep:
            return Conditioning(tokens=self._backbone.tokenize(captions))
        self.prepare(captions)
        assert self._table is not None
        return Conditioning(tokens=self._table[[self._rows[c] for c in captions]].long())


class HiddenTexts:
    """Embeddings of frozen text encoders.

    Args:
        backbone: Whose text encoders are used.
        cache: Where embeddings are kept; None to encode every batch each time.
    """

    def __init__(self, backbone: Backbone, cache: ContentCache | None = None) -> None:
        self._backbone = backbone
        self._encoder = "these text encoders"
        if cache is not None and cache.directory is not None:
            self._encoder = f"{backbone.fingerprint_text()} {backbone.text_dtype}"
            cache.encoder = f"{backbone.name} {self._encoder[:8]}"
        self._encoded = Encoded(self._encode, self._key, cache)

    def prepare(self, captions: Sequence[str], progress: Progress | None = None) -> None:
        """Encodes those captions that are not in the cache."""
        self._encoded.prepare(chunked(dict.fromkeys(captions), _AT_ONCE), progress)

    @property
    def found(self) -> tuple[int, int] | None:
        """As of `Encoded`."""
        return self._encoded.found

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        """`hidden` `[B, T, D]` and, for SDXL, `pooled` `[B, P]`, both fp32."""
        rows = self._encoded.rows(captions)
        return Conditioning(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def _encode(self, captions: Sequence[str]) -> list[Row]:
        with torch.no_grad():
            hidden, pooled = self._backbone.encode_text(self._backbone.tokenize(captions))
        columns = {"hidden": hidden.float().cpu()}
        if pooled is not None:
            columns["pooled"] = pooled.float().cpu()
        return [{name: column[i] for name, column in columns.items()} for i in range(len(captions))]

    def _key(self, caption: str) -> str:
        return content_key("text", caption, self._encoder)
