"""Latents of picture files: encoded on the fly, or once and then cached by content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.data.cache import ContentCache, Row, content_key
from finetune.data.decode import reading
from finetune.data.encoded import Encoded, Progress, chunked
from finetune.data.folder import Picture, digest_of
from finetune.data.latents import Posterior, View
from finetune.data.preprocess import as_pixels

if TYPE_CHECKING:
    from finetune.backbones import Backbone

# The VAE's activations are the largest tensors of a run; this keeps them below 1 GB in fp32 up to 512 px.
# More pictures at a time would not be faster on a CPU.
_PIXELS_AT_ONCE = 512 * 512


class PictureLatents:
    """The VAE's view of picture files.

    Args:
        pictures: The pictures.
        backbone: Whose VAE encodes them.
        cache: Where posteriors are kept; None to encode every view each time.
    """

    def __init__(
        self, pictures: Sequence[Picture], backbone: Backbone, cache: ContentCache | None = None
    ) -> None:
        self.pictures, self._backbone = pictures, backbone
        # A cache in memory does not outlive the weights, and hashing them takes seconds.
        self._encoder = "this VAE"
        if cache is not None and cache.directory is not None:
            self._encoder = backbone.fingerprint_vae()
            cache.encoder = f"{backbone.name} {self._encoder[:8]}"
            if backbone.vae_dtype != torch.float32:
                self._encoder += f" {backbone.vae_dtype}"
        self._encoded = Encoded(self._encode, self._key, cache)

    def digest(self) -> str:
        """SHA-256 of what the pictures are made from, in their order."""
        return digest_of(self.pictures)

    def prepare(self, views: Sequence[View], progress: Progress | None = None) -> None:
        """Fills the cache with these views."""
        by_size = sorted(views, key=lambda view: view.size)
        self._encoded.prepare(_chunks(by_size), progress)

    @property
    def found(self) -> tuple[int, int] | None:
        """As of `Encoded`."""
        return self._encoded.found

    def posterior(self, views: Sequence[View]) -> Posterior:
        """The posterior of views of one size: from the cache where there is one, else from the pictures."""
        rows = self._encoded.rows(views)
        ids = [self._time_ids(v) for v in views]
        return Posterior(
            torch.stack([row["mean"] for row in rows]),
            torch.stack([row["std"] for row in rows]),
            torch.cat([i for i in ids if i is not None]) if ids[0] is not None else None,
        )

    def _encode(self, views: Sequence[View]) -> list[Row]:
        rows: list[Row] = []
        with reading() as pool, torch.no_grad():
            for chunk in _chunks(views):
                pixels = torch.stack(list(pool.map(self._pixels, chunk)))
                mean, std = (t.float().cpu() for t in self._backbone.encode_pixels(pixels))
                rows += [{"mean": m, "std": s} for m, s in zip(mean, std, strict=True)]
        return rows

    def _pixels(self, view: View) -> Tensor:
        return as_pixels(view.levels(self.pictures))

    def _time_ids(self, view: View) -> Tensor | None:
        placement = view.of(self.pictures)
        return self._backbone.time_ids(placement.original, placement.corner, placement.size)

    def _key(self, view: View) -> str:
        key = view.of(self.pictures).key
        colors = [view.colors.key] if view.colors else []
        return content_key("latents", self.pictures[view.picture].content, key, self._encoder, *colors)


def _chunks(views: Iterable[View]) -> Iterator[list[View]]:
    """What is encoded together: neighbors of one size, a few at a time."""
    for (height, width), group in groupby(views, key=lambda view: view.size):
        most = max(1, min(64, _PIXELS_AT_ONCE // (height * width)))
        yield from chunked(group, most)
