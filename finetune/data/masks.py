"""Where in a picture the loss counts: from the picture's own transparency, or from a folder of masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from finetune.config import DataSection
from finetune.data.cache import ContentCache, Row, content_key
from finetune.data.companions import companions
from finetune.data.decode import PictureError, decode_alpha, decode_picture, quiet_pillow, reading
from finetune.data.encoded import Encoded, chunked
from finetune.data.folder import Picture
from finetune.data.latents import View
from finetune.data.notes import listing
from finetune.data.origin import Origin, unchanged
from finetune.data.preprocess import alike, cut_out
from finetune.data.read import bytes_of
from finetune.errors import DataError


@dataclass(frozen=True)
class _Mask:
    """One picture's mask: a gray picture file, or the transparency of the picture's own file."""

    origin: Origin
    digest: str
    alpha: bool

    def read(self) -> Image.Image:
        """8-bit gray, upright; call it inside `quiet_pillow`."""
        data = unchanged(self.origin, self.digest, "mask")
        alpha = decode_alpha(data)
        return alpha if self.alpha and alpha is not None else decode_picture(data).image.convert("L")


class Masks:
    """The loss weights over each picture, at the size of its latents; a `Companion`.

    A mask is cropped and mirrored exactly as its picture is, and averaged over the area of each latent.

    Args:
        pictures: The pictures.
        data: The recipe's settings, with exactly one source of masks.
        factor: Pixels per latent along a side.
        cache: Where rows are kept; None to compute them every time.

    Raises:
        DataError: If a picture has no mask, or one that cannot be read, has another aspect ratio or is
            all black; the files are named.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        data: DataSection,
        factor: int,
        cache: ContentCache | None = None,
    ) -> None:
        self._encoded = Encoded(self._encode, self._key, cache)
        self._pictures, self._factor = pictures, factor
        self._floor = data.unmasked_weight
        folder = data.mask_dir.expanduser() if data.mask_dir else None
        self._alpha = data.mask == "alpha"
        self._where = f"masks in {folder} are white" if folder else "masks beside the pictures are white"
        self._notes: list[str] = []
        if self._alpha:
            origins, self._where = [p.origin for p in pictures], "pictures are opaque"
        else:
            origins, self._notes = _mask_files(pictures, folder)
        with reading() as pool:
            self._masks = list(pool.map(self._checked, pictures, origins))

    def rows(self, views: Sequence[View]) -> Tensor:
        """`[B, 1, h, w]` fp32 in [0, 1]: how much the loss counts at each latent, in views of one size.

        Raises:
            DataError: If the loss counts nowhere in a picture's center crop.
        """
        rows = torch.stack([self._row(view) for view in views])
        return self._floor + (1 - self._floor) * rows

    def prepare(self, views: Sequence[View]) -> None:
        """Makes the rows of these views.

        Raises:
            DataError: As `rows`.
        """
        self._encoded.prepare(chunked(views, 1))
        for view in views:
            self._row(view)

    def digest(self) -> str:
        """SHA-256 of the masks' files in their order, and of the weight where they are black."""
        masks = [f"{mask.alpha} {mask.digest}" for mask in self._masks]
        return content_key("masks", str(self._floor), *masks)

    def digests(self) -> list[str]:
        """The SHA-256, in hex, of each mask's file."""
        return [mask.digest for mask in self._masks]

    def summary(self) -> list[str]:
        """Lines for the user."""
        elsewhere = f"; elsewhere it counts {self._floor:g}" if self._floor else ""
        return [f"the loss counts where the {self._where}{elsewhere}", *self._notes]

    def _row(self, view: View) -> Tensor:
        (row,) = self._encoded.rows([view])
        if view.at is None and not self._floor and not row["mask"].any():
            raise DataError(
                "The loss counts nowhere in the center crop of a picture.",
                where=str(self._masks[view.picture].origin),
                fix="Crop picture and mask to what should be learned, or set data.unmasked_weight above 0.",
            )
        return row["mask"]

    def _encode(self, views: Sequence[View]) -> list[Row]:
        with quiet_pillow():
            images = [self._masks[view.picture].read().convert("RGB") for view in views]
        placed = zip(images, (view.of(self._pictures) for view in views), strict=True)
        grays = [cut_out(image, placement)[:1] / 2 + 0.5 for image, placement in placed]
        return [{"mask": F.avg_pool2d(gray, self._factor)} for gray in grays]

    def _key(self, view: View) -> str:
        mask, placement = self._masks[view.picture], view.of(self._pictures)
        how = f"{placement.resized} {placement.key}"
        return content_key("alpha" if mask.alpha else "mask", mask.digest, how, str(self._factor))

    def _checked(self, picture: Picture, origin: Origin) -> _Mask:
        """The mask of a picture, read once in full to see that it is one."""
        try:
            data = bytes_of(origin)
            alpha = decode_alpha(data)
            gray = alpha if self._alpha else decode_picture(data).image.convert("L")
        except PictureError as reason:
            raise DataError(
                f"A mask cannot be used: {reason}.", where=str(origin), fix="Save it again."
            ) from None
        width, height = picture.width, picture.height
        if gray is None:
            what = "The picture has no alpha channel, so it does not say where the loss counts."
            fix = (
                "Save it with an alpha channel (opaque where all of it counts), give masks with "
                "data.mask_dir, or leave data.mask unset."
            )
        elif not self._alpha and alpha is not None and alpha.getextrema()[0] != 255:
            what = "A mask has transparent parts, and it is unclear what they mean."
            fix = "Save it as a grayscale picture: white counts, black does not."
        elif not alike(gray.size, (width, height)):  # one of another size is resized
            size, name = f"{gray.width}x{gray.height}", picture.name
            what = f"A mask is {size} pixels, but its picture {name} is {width}x{height}."
            fix = "Make the mask from this picture, without cropping or rotating it."
        elif gray.getextrema()[1] == 0 and not self._floor:
            what = "The loss counts nowhere in a picture."
            fix = "Make its mask white (or the picture opaque) where it shows what should be learned."
        else:
            return _Mask(origin, hashlib.sha256(data).hexdigest(), alpha=self._alpha)
        raise DataError(what, where=str(origin), fix=fix)


def _mask_files(pictures: Sequence[Picture], folder: Path | None) -> tuple[list[Origin], list[str]]:
    """The mask of each picture, by name or as the folder gives it, and a note of those without a picture."""
    notes: list[str] = []
    files: list[Origin | None]
    if folder is None:
        files, where, example = [p.mask for p in pictures], "data.mask = files", "{}-masklabel.png beside it"
    else:
        where, example = f"data.mask_dir = {folder}", "{}.png"
        found, notes = companions([p.name for p in pictures], folder, "masks", "data.mask_dir")
        files = list(found)
    if missing := [p for p, file in zip(pictures, files, strict=True) if file is None]:
        stem = PurePosixPath(missing[0].name).stem
        raise DataError(
            f"Pictures without a mask of the same name: {listing([p.name for p in missing])}.",
            where=where,
            fix=f"Add {example.format(stem)} and so on, all white where everything counts.",
        )
    return [file for file in files if file], notes
