"""The pictures that sampling begins with: as they were given, enlarged, and where they are repainted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from PIL import Image

from finetune.errors import ConfigError
from finetune.sampling.pictures import Opened, Picture, Record, fitted, for_prompts, size_of
from finetune.sampling.settings import Edge

Size = tuple[int, int]


@dataclass(frozen=True)
class Canvas:
    """A picture to begin with, at the size that is sampled.

    Attributes:
        image: RGB.
        mask: 8-bit gray, 255 where it is repainted and 0 elsewhere; None for everywhere.
        record: What is recorded of the pictures that were given.
        notes: What the user should know.
    """

    image: Image.Image
    mask: Image.Image | None = None
    record: Record = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Original:
    """What was given to begin with.

    Attributes:
        init: The picture.
        mask: Where it is repainted (white).
        outpaint: Pixels to add at each edge, at the size that is sampled; they are painted.
    """

    init: Opened
    mask: Opened | None = None
    outpaint: Mapping[Edge, int] = field(default_factory=dict)

    @property
    def repaints(self) -> bool:
        """Whether some of the picture stays as it is."""
        return self.mask is not None or any(self.outpaint.values())

    def size(self, native: int) -> Size:
        """The size to sample at if none is set: that of the picture, as `size_of`, and what is added."""
        width, height = size_of(self.init.image, native)
        left, top, right, bottom = self._margins
        return width + left + right, height + top + bottom

    def at(self, size: Size, factor: int) -> Canvas:
        """The canvas.

        Args:
            size: Width and height in pixels, with what is added.
            factor: Pixels per latent along a side.

        Raises:
            ConfigError: The picture or the mask has another aspect ratio, or nothing would be repainted.
        """
        left, top, right, bottom = self._margins
        inside = size[0] - left - right, size[1] - top - bottom
        image = fitted(self.init.image, inside, "initial picture")
        record, notes = self.init.record("init"), _resized(self.init.image.size, inside)
        if not self.repaints:
            return Canvas(image, None, record, notes)
        white = Image.new("L", inside, 0)
        if self.mask is not None:
            white = fitted(self.mask.image.convert("L"), inside, "mask")
            record += self.mask.record("mask")
        margins = ((top, bottom), (left, right))
        # The edges are continued outward, so that the VAE sees no seam.
        pixels = np.pad(np.asarray(image), (*margins, (0, 0)), mode="edge")
        mask = np.pad(np.where(np.asarray(white) >= 128, 255, 0), margins, constant_values=255)
        _check_white(mask, factor)
        where = "Where the mask is black" if self.mask is not None else "Inside of what is added"
        notes += (f"{where}, the pixels are those of the initial picture.",)
        return Canvas(Image.fromarray(pixels), Image.fromarray(mask.astype(np.uint8)), record, notes)

    @property
    def _margins(self) -> list[int]:
        return [self.outpaint.get(edge, 0) for edge in get_args(Edge)]


def originals(
    init: Picture | Sequence[Picture] | None,
    mask: Picture | Sequence[Picture] | None,
    outpaint: Mapping[Edge, int] | None,
    prompts: int,
) -> list[Original | None]:
    """What each prompt's picture begins with; None for noise alone.

    Args:
        init: Initial pictures, one for all prompts or one for each.
        mask: Masks, likewise.
        outpaint: As in `Original`.
        prompts: How many prompts there are.

    Raises:
        ConfigError: There is no initial picture, or there are not as many pictures as prompts.
        DataError: A picture cannot be read.
    """
    if init is None:
        for given, name in ((mask, "mask"), (outpaint, "outpaint")):
            if given is not None:
                raise ConfigError(
                    f"`{name}` has no effect without an initial picture.",
                    where=name,
                    fix="Give the picture to repaint (--init PICTURE).",
                )
        return [None] * prompts
    inits = for_prompts(init, prompts, "initial picture")
    masks = [None] * prompts if mask is None else for_prompts(mask, prompts, "mask")
    return [Original(*pair, outpaint or {}) for pair in zip(inits, masks, strict=True)]


def _resized(before: Size, after: Size) -> tuple[str, ...]:
    if before == after:
        return ()
    sizes = " to ".join(f"{width}x{height}" for width, height in (before, after))
    return (f"The initial picture was resized from {sizes} pixels.",)


def _check_white(mask: np.ndarray[tuple[int, ...], np.dtype[np.int64]], factor: int) -> None:
    """A latent is repainted if its first pixel is."""
    if not mask[::factor, ::factor].any():
        raise ConfigError(
            f"Nothing would be repainted: the mask has no white part that is {factor} pixels wide.",
            where="mask",
            fix="Paint white what is to be repainted.",
        )
