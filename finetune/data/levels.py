"""16 bits a channel, and floats, → the nearest of 256 levels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_BAND = 2**20  # pixels whose arithmetic is done at once, so that it needs little memory
_BITS_PER_SAMPLE = 258  # a TIFF's tag
_NO_RANGE = "its 32-bit pixels have no known range; save it with 8 or 16 bits"


class NoKnownRange(ValueError):
    """Pixels whose black and white are not known."""


def load(image: Image.Image, again: Callable[[], Image.Image]) -> tuple[Image.Image, list[str]]:
    """Loads all pixels of an opened file.

    Pillow keeps only the upper byte of 16-bit colors (13.0), so the lower one is read from the file opened
    `again`, with Pillow told that the byte order is the other one.

    Returns:
        The picture with 8 bits a channel, and what its owner should know.

    Raises:
        NoKnownRange: If floats are outside 0 to 1, or integers outside 0 to 65535.
    """
    upper = _raw_modes(image)
    if set(upper) == {"LA;16B"} and image.mode == "RGBA":
        return _gray_with_alpha(image, upper)
    if upper and all(re.fullmatch(r"(RGB[AX]?|[RGBA]);16[BLN]", mode) for mode in upper):
        lower = again()
        _set_raw_modes(image, upper)
        _set_raw_modes(lower, [_other_order(mode) for mode in upper])
        image.load()
        lower.load()
        return _color(image, lower)
    image.load()
    if image.mode == "F":
        return _floats(image)
    return _gray(image) if image.mode.startswith("I") else (image, [])


def _raw_modes(image: Image.Image) -> list[str]:
    """How Pillow will unpack each tile of a PNG or TIFF; right for 16-bit planes, which it takes for 8."""
    if image.format not in ("PNG", "TIFF") or not isinstance(image, ImageFile.ImageFile):
        return []
    modes = [args if isinstance(args, str) else str(args[0]) if args else "" for *_, args in image.tile]
    tags: Any = getattr(image, "tag_v2", {})
    if 16 in tags.get(_BITS_PER_SAMPLE, ()):
        order = "L" if tags.prefix == b"II" else "B"
        modes = [f"{mode};16{order}" if mode in set("RGBA") else mode for mode in modes]
    return modes


def _set_raw_modes(image: Image.Image, modes: list[str]) -> None:
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [
        tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode)
        for tile, mode in zip(image.tile, modes, strict=True)
    ]


def _other_order(mode: str) -> str:
    native = "L" if np.little_endian else "B"
    order = native if mode[-1] == "N" else mode[-1]
    return mode[:-1] + ("B" if order == "L" else "L")


def _bands(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of so many rows each, from top to bottom."""
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _factor(highest: int) -> tuple[int, list[str]]:
    """What values up to `highest` are multiplied by: 10 and 12 bits are stored in 16, as cameras do."""
    if highest < 256:
        return 1, ["nearly black: none of its 16-bit values is above 255"] if highest else []
    bits = next(bits for bits in (10, 12, 16) if highest < 2**bits)
    factor = 2 ** (16 - bits)
    return factor, [f"brightened: its 16-bit values fill only {bits} bits"] if factor > 1 else []


def _nearest(
    image: Image.Image, mode: str, values: Callable[[tuple[int, int, int, int]], NDArray[np.uint16]]
) -> tuple[Image.Image, list[str]]:
    """The picture in 8 bits.

    Args:
        image: Where the result goes if it has the `mode`, so that a large one is in memory once.
        mode: L, LA, RGB or RGBA.
        values: The 16-bit values in a box, `[H, W, C]`.
    """
    result = image if image.mode == mode else Image.new(mode, image.size)
    boxes = list(_bands(*image.size))
    highest = np.max([values(box).max((0, 1)) for box in boxes], axis=0)
    colors = 1 if mode[0] == "L" else 3
    factor, notes = _factor(int(highest[:colors].max()))
    factors = np.array([factor] * colors + [_factor(int(alpha))[0] for alpha in highest[colors:]], np.uint32)
    for box in boxes:
        # 257 steps of 16 bits are one of 8.
        levels = ((values(box) * factors + 128) // 257).astype(np.uint8)
        result.paste(Image.fromarray(levels.squeeze(2) if mode == "L" else levels), box)
    if image.info.get("transparency") is not None:  # a color of 16 bits
        notes.append("its transparent color was ignored, since it has 16 bits")
    result.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return result, notes


def _color(image: Image.Image, lower: Image.Image) -> tuple[Image.Image, list[str]]:
    """RGB or RGBA from the upper and the lower bytes."""

    def values(box: tuple[int, int, int, int]) -> NDArray[np.uint16]:
        high, low = (np.asarray(part.crop(box)).astype(np.uint16) for part in (image, lower))
        joined: NDArray[np.uint16] = high * 256 + low
        return joined

    return _nearest(image, image.mode, values)


def _gray_with_alpha(image: Image.Image, modes: list[str]) -> tuple[Image.Image, list[str]]:
    """A PNG's gray and alpha: told that they are RGBA, Pillow gives the four bytes of each pixel."""
    _set_raw_modes(image, ["RGBA"] * len(modes))
    image.load()
    return _nearest(image, "LA", lambda box: np.asarray(image.crop(box)).view(">u2").astype(np.uint16))


def _gray(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Integers of 16 bits, whatever type they are stored in."""
    whole = np.asarray(image)  # Pillow itself can do little with big-endian ones
    if whole.min() < 0 or whole.max() > 65535:
        raise NoKnownRange(_NO_RANGE)
    return _nearest(image, "L", lambda box: whole[box[1] : box[3], :, None].astype(np.uint16))


def _floats(image: Image.Image) -> tuple[Image.Image, list[str]]:
    gray = Image.new("L", image.size)
    for box in _bands(*image.size):
        values = np.asarray(image.crop(box))
        if not (values.min() >= 0 and values.max() <= 1):  # nor NaN
            raise NoKnownRange(_NO_RANGE)
        gray.paste(Image.fromarray(np.rint(values * 255).astype(np.uint8)), box)
    gray.info = image.info
    return gray, []
