"""Pictures that are given to a sampler: read, and brought to the size that is sampled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.data.decode import PictureError, decode_picture, quiet_pillow
from finetune.errors import ConfigError, DataError

Picture = Image.Image | str | Path
Record = tuple[tuple[str, dict[str, Any]], ...]
"""By what they were given for, name and digest of pictures."""

_ROUNDING = 8  # pixels that a side may be off by: sizes are multiples of it


@dataclass(frozen=True)
class Opened:
    """A picture that was given.

    Attributes:
        image: RGB.
        name: Its file's name, without the folder; None if it came as an image.
    """

    image: Image.Image
    name: str | None = None

    def record(self, what: str) -> Record:
        """What a picture made from it says of it: its name, and the SHA-256 of its size and RGB values.

        Args:
            what: What it was given for.
        """
        size = f"{self.image.width}x{self.image.height}\n".encode()
        digest = hashlib.sha256(size + self.image.tobytes()).hexdigest()
        return ((what, {**({"name": self.name} if self.name else {}), "sha256": digest}),)


def open_picture(picture: Picture, what: str) -> Opened:
    """Reads a picture.

    Args:
        picture: An image or a file.
        what: What it is, for messages: "control picture".

    Raises:
        DataError: It cannot be read.
    """
    if isinstance(picture, Image.Image):
        return Opened(picture.convert("RGB"))
    path = Path(picture).expanduser()
    try:
        data = path.read_bytes()
        with quiet_pillow():
            return Opened(decode_picture(data).image, path.name)
    except (OSError, PictureError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"The {what} cannot be read: {reason}.", where=str(picture), fix="Check the path."
        ) from error


def for_prompts(entry: Picture | Sequence[Picture], prompts: int, what: str) -> list[Opened]:
    """One picture for each prompt, from one for all or one for each.

    Raises:
        ConfigError: There are not as many pictures as prompts.
        DataError: One cannot be read.
    """
    if isinstance(entry, Image.Image | str | Path):
        return [open_picture(entry, what)] * prompts
    if len(entry) != prompts:
        raise ConfigError(
            f"{prompts} prompts were given but {len(entry)} {what}s.",
            where=f"{what}s",
            fix="Give one for all prompts, or one for each.",
        )
    return [open_picture(picture, what) for picture in entry]


def size_of(picture: Image.Image, native: int) -> tuple[int, int]:
    """The size to sample at: the picture's, in multiples of 8 and no larger than the model's own.

    Returns:
        Width and height in pixels; a larger picture is reduced until its shorter side is `native`.
    """
    factor = min(1.0, native / min(picture.size))
    width, height = (max(8, round(side * factor / 8) * 8) for side in picture.size)
    return width, height


def fitted(picture: Image.Image, size: tuple[int, int], what: str) -> Image.Image:
    """A picture at another size (width, height in pixels) of nearly the same shape.

    Raises:
        ConfigError: It has another aspect ratio.
    """
    width, height = size
    if abs(picture.width * height / picture.height - width) > _ROUNDING:
        # Of indefinite number, since one of several pictures may be meant.
        a = "An" if what[0] in "aeiou" else "A"
        raise ConfigError(
            f"{a} {what} is {picture.width}x{picture.height} pixels, which cannot be resized to "
            f"{width}x{height} without distortion.",
            where=f"{what}s",
            fix=f"Crop it, or sample at its shape with --size {_multiples(picture)}.",
        )
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _multiples(picture: Image.Image) -> str:
    width, height = size_of(picture, min(picture.size))
    return f"{width}x{height}"
