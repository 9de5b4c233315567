"""Sample numbers in, batches out: every draw is a pure function of (seed, number) (promise P1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.config import CaptionsSection, DataSection
from finetune.config.captions import AS_THEY_ARE
from finetune.data.augment import Augmentation
from finetune.data.buckets import Order, trained_sizes
from finetune.data.cache import cache_of
from finetune.data.captions import names_a_side, variant, with_affixes
from finetune.data.encoded import Progress
from finetune.data.epoch import amounts, share_note
from finetune.data.folder import Folder, Picture
from finetune.data.latents import Companion, View
from finetune.data.masks import Masks
from finetune.data.notes import NAMED, count, cropped_notes, listing, shapes_note, skipped_notes
from finetune.data.pictures import PictureLatents
from finetune.data.preprocess import Size
from finetune.data.record import Entry
from finetune.data.texts import HiddenTexts, TokenTexts
from finetune.diffusion.batch import Batch
from finetune.diffusion.random import normal, uniform

if TYPE_CHECKING:
    from finetune.backbones import Backbone


class PictureSource:
    """Batches from a folder of pictures.

    Which picture sample `n` shows is said by an `Order`, how it is mirrored, cropped and jittered by an
    `Augmentation`; its caption is drawn (if it has several), varied and dropped as drawn for `n`, and its
    latents are drawn from the VAE's posterior.

    Args:
        folder: From `scan_folder`.
        backbone: Encodes pictures and captions.
        data: The recipe's settings.
        seed: Seed of every draw.
        train_text: Whether the text encoders are trained; batches then carry tokens instead of
            embeddings.
        captions: How captions are varied.
        group: Samples that an optimizer step sees, over all processes; they have one shape where there are
            enough of it.
        preserve: Prompts that must keep their meaning: a share of the samples gets one of them as its
            caption and is marked as preserved.
        preserve_share: That share, if there are such prompts.
        control: Control pictures (ControlNet).
        control_dropout: Probability that a sample's control picture is black.

    Raises:
        ConfigError: If a resolution or the buckets' step does not fit the model.
        DataError: If masks are missing or do not fit the pictures.
    """

    def __init__(
        self,
        folder: Folder,
        backbone: Backbone,
        data: DataSection,
        seed: int,
        train_text: bool = False,
        *,
        captions: CaptionsSection = AS_THEY_ARE,
        group: int = 1,
        preserve: Sequence[str] = (),
        preserve_share: float = 0.0,
        control: Companion | None = None,
        control_dropout: float = 0.0,
    ) -> None:
        self.folder, self.backbone, self.seed = folder, backbone, seed
        self.size = data.resolution or backbone.native_size
        pictures, factor = folder.pictures, backbone.latent_factor
        self.items = trained_sizes([(p.height, p.width) for p in pictures], data, self.size, factor)
        repeats, pools = amounts([pictures[index] for index, _ in self.items])
        self.order = Order([size for _, size in self.items], repeats, group, seed, pools, folder.start)
        self.latents = PictureLatents(pictures, backbone, cache_of(data, "latents"))
        self._varied = captions
        # Captions that differ from sample to sample are not kept: there is no end of them.
        texts = None if captions.varies else cache_of(data, "texts")
        self.texts = (
            TokenTexts(backbone, keep=not captions.varies) if train_text else HiddenTexts(backbone, texts)
        )
        self.augmentation = Augmentation(pictures, data, seed)
        own = [p.source.caption_dropout if p.source else None for p in pictures]
        self._dropout = [data.caption_dropout if share is None else share for share in own]
        self._flip, self._crop_warning = data.flip, data.crop_warning
        self._preserve, self._preserve_share = preserve, preserve_share
        self._control, self._control_dropout = control, control_dropout
        self._mask = Masks(pictures, data, factor, cache_of(data, "masks")) if data.masked else None

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.order)

    def batches(self, numbers: Sequence[int]) -> list[Batch]:
        """The samples of these global numbers, on the CPU: a batch for each shape among them."""
        by_size: dict[Size, tuple[list[int], list[int]]] = {}
        for number in numbers:
            picture, size = self.items[self.order.item(number)]
            own, pictures = by_size.setdefault(size, ([], []))
            own.append(number)
            pictures.append(picture)
        return [self._batch(*rows, size) for size, rows in by_size.items()]

    def _batch(self, numbers: Sequence[int], pictures: Sequence[int], size: Size) -> Batch:
        """Samples that show these pictures at one size."""
        views = self.augmentation.views(numbers, pictures, size)
        posterior = self.latents.posterior(views)
        noise = normal(self.seed, numbers, "latents", posterior.mean.shape[1:])
        preserved = self._preserved(numbers)
        captions = [p or c for p, c in zip(preserved, self._drawn_captions(numbers, pictures), strict=True)]
        conditioning = self.texts.conditioning(captions)
        return Batch(
            numbers=tuple(numbers),
            latents=posterior.sample(noise),
            conditioning=replace(
                conditioning,
                time_ids=posterior.time_ids,
                control=self._control_rows(numbers, views),
            ),
            weight=torch.ones(len(numbers)),
            names=tuple(str(self.folder.pictures[p].origin) for p in pictures),
            preserved=torch.tensor([p is not None for p in preserved]) if self._preserve else None,
            mask=self._mask.rows(views) if self._mask else None,
        )

    def captions(self) -> list[str]:
        """The distinct captions, in the order of the pictures."""
        return list(dict.fromkeys(text for p in self.folder.pictures for text in self._first_variants(p)))

    def _first_variants(self, picture: Picture) -> list[str]:
        varied = with_affixes(self._varied, picture.source)
        return [variant(caption, varied, self.seed, 0) for caption in picture.captions]

    def digest(self) -> str:
        """SHA-256, in hex, of the pictures, their captions and their order (promise P7)."""
        beside = [companion.digest() for companion in (self._control, self._mask) if companion]
        captions = [p.captions for p in self.folder.pictures]
        repeats = [p.repeats for p in self.folder.pictures]
        more: list[object] = [repeats] if set(repeats) != {1} else []
        if any(p.source for p in self.folder.pictures):
            more.append([p.source and p.source.differences for p in self.folder.pictures])
        content = json.dumps([self.latents.digest(), captions, *beside, *more])
        return hashlib.sha256(content.encode()).hexdigest()

    def _control_rows(self, numbers: Sequence[int], views: Sequence[View]) -> Tensor | None:
        if self._control is None:
            return None
        rows = self._control.rows(views)
        if self._control_dropout > 0:
            kept = uniform(self.seed, numbers, "control dropout") >= self._control_dropout
            rows = rows * kept[:, None, None, None]
        return rows

    def _possible_captions(self) -> list[str]:
        """Those that are encoded beforehand: none where there is no end of them."""
        if self._varied.varies:
            return []
        return [*self.captions(), *([""] if any(self._dropout) else []), *self._preserve]

    def _preserved(self, numbers: Sequence[int]) -> list[str | None]:
        """For each sample the prompt it preserves, or None."""
        if not self._preserve:
            return [None] * len(numbers)
        rows = zip(self._draw(numbers, "preserve"), self._draw(numbers, "preserved prompt"), strict=True)
        return [
            self._preserve[int(u * len(self._preserve))] if s < self._preserve_share else None
            for s, u in rows
        ]

    def _drawn_captions(self, numbers: Sequence[int], pictures: Sequence[int]) -> list[str]:
        shown = [self.folder.pictures[p] for p in pictures]
        several = [picture.captions for picture in shown]
        captions = [texts[0] for texts in several]
        if any(len(texts) > 1 for texts in several):
            drawn = self._draw(numbers, "caption")
            captions = [texts[int(u * len(texts))] for texts, u in zip(several, drawn, strict=True)]
        varied = [with_affixes(self._varied, picture.source) for picture in shown]
        triples = zip(captions, varied, numbers, strict=True)
        captions = [variant(caption, section, self.seed, number) for caption, section, number in triples]
        if any(shares := [self._dropout[p] for p in pictures]):
            drawn = self._draw(numbers, "caption dropout")
            dropped = [u < share for u, share in zip(drawn, shares, strict=True)]
            captions = ["" if gone else c for c, gone in zip(captions, dropped, strict=True)]
        return captions

    def _draw(self, numbers: Sequence[int], purpose: str) -> list[float]:
        return [float(u) for u in uniform(self.seed, numbers, purpose).tolist()]

    @property
    def to_encode(self) -> int:
        """How many views of pictures, and captions, `prepare` encodes."""
        return len(self.augmentation.every(self.items)) + len(set(self._possible_captions()))

    def prepare(self, progress: Progress | None = None) -> None:
        """Encodes pictures and captions into the caches; after it, `batches` needs no frozen encoder.

        With `cache: false` nothing is encoded.

        Args:
            progress: Called with the number of things that are done and their total.

        Raises:
            DataError: If a mask leaves nothing of a picture's center crop.
        """
        views = self.augmentation.every(self.items)
        total = len(views) + len(set(self._possible_captions()))
        report = progress or (lambda done, total: None)
        if self._mask:
            self._mask.prepare(self.augmentation.places(self.items))
        self.latents.prepare(views, lambda done, _: report(done, total))
        self.texts.prepare(self._possible_captions(), lambda done, _: report(len(views) + done, total))

    def found(self) -> list[str]:
        """Lines for the user: how much `prepare` found in the cache folder, if there is one."""
        kinds = {"latents": self.latents.found, "captions": self.texts.found}
        return [f"{kind}: {f[0]} of {f[1]} from the cache" for kind, f in kinds.items() if f]

    def record(self) -> list[Entry]:
        """What each picture is, for `pictures.jsonl`."""
        entries = [
            {"file": p.name, "sha256": p.digest, "caption": "\n".join(p.captions)}
            | ({"background": p.background} if p.background else {})
            for p in self.folder.pictures
        ]
        for name, companion in (("control", self._control), ("mask", self._mask)):
            for entry, digest in zip(entries, companion.digests() if companion else (), strict=False):
                entry[name] = digest
        return list(entries)

    def summary(self) -> list[str]:
        """Lines for the user: what is trained on, and everything unexpected about it."""
        pictures = self.folder.pictures
        shapes = shapes_note([size for _, size in self.items])
        lines = [f"{count(len(pictures), 'picture')} from {self.folder.places or self.folder.path}, {shapes}"]
        lines += share_note([pictures[index] for index, _ in self.items], self.folder.path)
        lines += skipped_notes((s.name, s.reason) for s in self.folder.skipped)
        if len(self.folder.left_out) > NAMED:
            lines.append("every file that is not used is named in skipped.txt in the run folder")
        centered = [View(picture, size) for picture, size in self.items]
        placements = [(pictures[view.picture].name, view.of(pictures)) for view in centered]
        lines += cropped_notes(placements, self._crop_warning)
        lines += self.augmentation.notes(self.items)
        for caption in self.captions():
            if lost := self.backbone.truncated(caption):
                whose = [p.name for p in pictures if caption in self._first_variants(p)]
                lines.append(
                    f'caption truncated, too long for model.max_tokens; lost: "{lost}" ({listing(whose)})'
                )
        if self._flip and (told := [p.name for p in pictures if names_a_side(p.captions)]):
            lines.append(f"data.flip mirrors pictures whose captions say left or right: {listing(told)}")
        return [*lines, *(self._mask.summary() if self._mask else []), *self.folder.notes]
