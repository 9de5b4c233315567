"""Latents of picture files: encoded on the fly, or once and then cached by content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.data.cache import ContentCache, Encoded, Progress, Row, content_key
from finetune.data.decode import reading
from finetune.data.folder import Picture, digest_of
from finetune.data.latents import Posterior, View, every_view
from finetune.data.preprocess import VERSION, Placement, cut_out, place

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
        size: Side in pixels of the square crop.
        cache: Where posteriors are kept; None to encode every view each time.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        backbone: Backbone,
        size: int,
        cache: ContentCache | None = None,
    ) -> None:
        self.pictures = pictures
        self._backbone, self._size = backbone, size
        # A cache in memory does not outlive the weights, and hashing them takes seconds.
        on_disk = cache is not None and cache.directory is not None
        self._encoder = backbone.fingerprint_vae() if on_disk else "this VAE"
        self._chunk = max(1, min(64, _PIXELS_AT_ONCE // size**2))
        self._encoded = Encoded(self._encode, self._key, cache, self._chunk)

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.pictures)

    def digest(self) -> str:
        """SHA-256 of what the pictures are made from, in their order."""
        return digest_of(self.pictures)

    def prepare(self, flip: bool, progress: Progress | None = None) -> None:
        """Fills the cache with the center crop of every picture, and with its mirror image if `flip`."""
        self._encoded.prepare(every_view(len(self), flip), progress)

    def posterior(self, views: Sequence[View]) -> Posterior:
        """The posterior of each view: from the cache where there is one, else from the pictures."""
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
            for start in range(0, len(views), self._chunk):
                pixels = torch.stack(list(pool.map(self._pixels, views[start : start + self._chunk])))
                mean, std = (t.float().cpu() for t in self._backbone.encode_pixels(pixels))
                rows += [{"mean": m, "std": s} for m, s in zip(mean, std, strict=True)]
        return rows

    def _pixels(self, view: View) -> Tensor:
        with self.pictures[view.picture].opened() as image:
            return cut_out(image, self._placement(view))

    def _placement(self, view: View) -> Placement:
        picture = self.pictures[view.picture]
        return place((picture.height, picture.width), self._size, at=view.at, mirrored=view.mirrored)

    def _time_ids(self, view: View) -> Tensor | None:
        placement = self._placement(view)
        return self._backbone.time_ids(placement.original, placement.corner, (self._size, self._size))

    def _key(self, view: View) -> str:
        placement = self._placement(view)
        how = f"{VERSION} {placement.size} {placement.cut} {placement.mirrored}"
        return content_key("latents", self.pictures[view.picture].content, how, self._encoder)
