"""Control pictures as batches see them, and batches of pairs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.config import CaptionsSection, ControlKind, PairsSection
from finetune.config.captions import AS_THEY_ARE
from finetune.data.cache import ContentCache, Row, cache_of, content_key
from finetune.data.control import check_control_kind, control_pixels
from finetune.data.decode import quiet_pillow
from finetune.data.encoded import Encoded, Progress, chunked
from finetune.data.latents import View
from finetune.data.pairs import PairedFolder
from finetune.data.preprocess import cropped
from finetune.data.source import PictureSource

if TYPE_CHECKING:
    from finetune.backbones import Backbone


class Controls:
    """The control pictures of a folder; a `Companion`.

    Each is resized to its picture's size, then cropped and mirrored exactly as its picture is.

    Args:
        folder: From `scan_pairs`.
        data: Whether and how they are made from the pictures.
        cache: Where they are kept (8 bits, compressed); None to make them every time.

    Raises:
        ConfigError: If the library that makes them is missing.
    """

    def __init__(self, folder: PairedFolder, data: PairsSection, cache: ContentCache | None = None) -> None:
        check_control_kind(data.preprocess)
        self._encoded = Encoded(self._encode, self._key, cache)
        self._folder, self._data, self._packed = folder, data, cache is not None

    def rows(self, views: Sequence[View]) -> Tensor:
        """`[B, 3, H, W]` fp32 in [0, 1], on the CPU, of views of one size."""
        rows = [row["control"] for row in self._encoded.rows(views)]
        return torch.stack([self._unpacked(*pair) for pair in zip(rows, views, strict=True)]).float() / 255

    def digest(self) -> str:
        """SHA-256, in hex, of the files in their order and of how they are used."""
        return content_key("controls", self._how, *(control.content for control in self._folder.controls))

    def digests(self) -> list[str]:
        """The SHA-256, in hex, of each control picture's file."""
        return [control.digest for control in self._folder.controls]

    def prepare(self, views: Sequence[View]) -> None:
        """Fills the cache with these views."""
        self._encoded.prepare(chunked(views, 1))

    @property
    def kind(self) -> ControlKind:
        """How they are made from the pictures; `none` if they are given."""
        return self._data.preprocess

    @property
    def _how(self) -> str:
        kind, thresholds = self._data.preprocess, self._data.canny_thresholds
        return f"{kind} {thresholds}" if kind == "canny" else kind

    def _encode(self, views: Sequence[View]) -> list[Row]:
        """`[H, W, 3]` uint8 of each, compressed if they are kept."""
        rows: list[Row] = []
        for view in views:
            with quiet_pillow(), self._folder.controls[view.picture].opened() as image:
                placement = view.of(self._folder.pictures)
                levels = cropped(image, placement).permute(1, 2, 0).contiguous().numpy()
            pixels = control_pixels(levels, self._data.preprocess, self._data.canny_thresholds)
            row = torch.from_numpy(pixels).contiguous()
            if self._packed:
                # Edges and silhouettes shrink to a hundredth; a large data set then fits into memory.
                packed = bytearray(zlib.compress(row.numpy().tobytes(), 1))
                row = torch.frombuffer(packed, dtype=torch.uint8)
            rows.append({"control": row})
        return rows

    def _unpacked(self, row: Tensor, view: View) -> Tensor:
        """`[3, H, W]` uint8."""
        if self._packed:
            raw = bytearray(zlib.decompress(row.numpy().tobytes()))
            row = torch.frombuffer(raw, dtype=torch.uint8).view(*view.size, 3)
        return row.permute(2, 0, 1)

    def _key(self, view: View) -> str:
        control, placement = self._folder.controls[view.picture], view.of(self._folder.pictures)
        where = f"{placement.resized} {placement.key}"
        return content_key("control", control.content, self._how, where)


class PairSource(PictureSource):
    """Batches from a folder of pairs.

    Args:
        folder: From `scan_pairs`.
        backbone: Encodes pictures and captions.
        data: The recipe's settings.
        seed: Seed of every draw.
        group: Samples that an optimizer step sees.
        captions: How captions are varied.

    Raises:
        ConfigError: If the settings do not fit the model, or need a missing library.
    """

    def __init__(
        self,
        folder: PairedFolder,
        backbone: Backbone,
        data: PairsSection,
        seed: int,
        group: int = 1,
        captions: CaptionsSection = AS_THEY_ARE,
    ) -> None:
        self.controls = Controls(folder, data, cache_of(data, "controls"))
        super().__init__(
            folder,
            backbone,
            data,
            seed,
            captions=captions,
            group=group,
            control=self.controls,
            control_dropout=data.control_dropout,
        )

    def prepare(self, progress: Progress | None = None) -> None:
        """As `PictureSource.prepare`, and the control pictures too."""
        self.controls.prepare(self.augmentation.places(self.items))
        super().prepare(progress)

    def shown(self, number: int) -> list[tuple[str, Tensor]]:
        """Captions and square control pictures `[3, S, S]` in [0, 1] of the first pairs, for previews.

        Args:
            number: How many; if there are fewer pairs, they are repeated.
        """
        pictures = [i % len(self.folder.pictures) for i in range(number)]
        rows = self.controls.rows([View(i, (self.size, self.size)) for i in pictures])
        return [(self.folder.pictures[i].caption, row) for i, row in zip(pictures, rows, strict=True)]

    def summary(self) -> list[str]:
        """As `PictureSource.summary`, and where control pictures come from if they are made."""
        kind = self.controls.kind
        lines = super().summary()
        return lines if kind == "none" else [lines[0], f"control pictures made from them: {kind}", *lines[1:]]
