"""The bytes of a picture file → 8-bit sRGB pixels, whatever the file holds."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from finetune.data import kinds, levels
from finetune.data.stderr import caught_lines

SUFFIXES = tuple(suffix for kind in kinds.KINDS for suffix in kind.suffixes)
"""File-name endings that are read as pictures."""

VERSION = "1"
"""Changes whenever the same bytes would be told to be another picture."""

BACKGROUND = "white"
"""What is seen through transparent parts, unless another color is chosen."""

_MAX_SIDE = 30_000  # more is a damaged header, on which some readers hang for minutes
_TOO_LARGE = "far too large to be a training picture; scale it down"
_LARGE = 50_000_000  # pixels
_LONGEST_DETAIL = 200  # characters of a library's own words

_ALONE = threading.RLock()

# Pillow keeps a picture in blocks of 16 MB. When they are freed, the C library holds on to them for the
# thread that had them, so that two large pictures, one after the other, would need memory for both. It does
# not with larger blocks. (A small picture is one block of its own size.)
Image.core.set_block_size(2**27)  # type: ignore[attr-defined]


class PictureError(ValueError):
    """The bytes are not a picture that can be trained on; the message is the reason in plain words."""


class CannotReadNow(PictureError):
    """This machine, as it is now, cannot read the picture; another time it may."""


@dataclass(frozen=True)
class Decoded:
    """A picture as it is trained on.

    Attributes:
        image: 8-bit RGB, upright, opaque.
        notes: What was done to the picture that its owner may not expect, but for its transparency.
        transparent: Whether some of it was, and is now of the background's color.
    """

    image: Image.Image
    notes: tuple[str, ...]
    transparent: bool


@contextmanager
def reading() -> Iterator[ThreadPoolExecutor]:
    """Threads to read pictures in, with Pillow quiet."""
    with quiet_pillow(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield pool


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Mutes Pillow's warnings about odd but readable files, and its log; its errors arrive as exceptions.

    Enter it in the thread that starts the readers: warning filters belong to the whole process, so
    entering it in several threads at once would leave them muddled.
    """
    log = logging.getLogger("PIL")
    before = log.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(before)


@contextmanager
def alone_if_large(pixels: int) -> Iterator[None]:
    """Lets one thread at a time work with a picture of more than 50 megapixels (0.2 GB and more)."""
    with _ALONE if pixels > _LARGE else nullcontext():
        yield


def decode_picture(data: bytes, background: str = BACKGROUND) -> Decoded:
    """Decodes every pixel of a picture file.

    It is rotated by its EXIF orientation, converted to 8 bits and, by its ICC profile if it has one, to
    sRGB, and put on the background where transparent. The first frame of an animation is used.

    Args:
        data: The bytes of a file of one of `kinds.KINDS`.
        background: A color that Pillow's `ImageColor` knows.

    Raises:
        PictureError: If the bytes are empty, truncated, damaged or of another kind.
    """
    with _loaded(data) as (image, notes):
        profile = image.info.get("icc_profile")
        final, transparent = _on_background(image, profile, background, notes)
    final.info = {}  # a profile that is no longer true would be saved along
    return Decoded(final, tuple(notes), transparent)


def decode_alpha(data: bytes) -> Image.Image | None:
    """The transparency of a picture file: 8-bit gray, 255 where opaque, upright; None if it has none.

    Args:
        data: The bytes of a file that `decode_picture` can read.

    Raises:
        PictureError: If the bytes are not a picture.
    """
    with _loaded(data) as (image, _):
        return _layered(image).getchannel("A") if _has_alpha(image) else None


@contextmanager
def _loaded(data: bytes) -> Iterator[tuple[Image.Image, list[str]]]:
    """The first frame of a picture, upright, with 8 bits a channel, and notes about it.

    Raises:
        PictureError: Whatever goes wrong, inside the block too.
    """
    if not data:
        raise PictureError("the file is empty")
    said: list[str] = []
    with _explained(said):
        with _opened(data) as probe:
            size = _size(probe)
            probe.verify()  # checksums that decoding alone does not check
        with alone_if_large(size[0] * size[1]), _opened(data) as file:
            frames = int(getattr(file, "n_frames", 1)) if file.format != "MPO" else 1
            # libtiff writes what is wrong to standard error; its exceptions say less.
            with caught_lines(said, file.format == "TIFF"):
                image, notes = levels.load(file, lambda: _opened(data))
            ImageOps.exif_transpose(image, in_place=True)  # a copy would be a second large picture
            notes += [f"only the first of its {frames} frames is used"] if frames > 1 else []
            yield image, notes


def check_start(path: Path) -> None:
    """Reads as much of a file as says which kind of picture it is; call it inside `quiet_pillow`.

    Raises:
        PictureError: If it is none of `kinds.KINDS`, or has too many pixels.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if kinds.recognized(start) is None:
        with _explained(), Image.open(path, formats=kinds.readers()) as image:
            _size(image)


def _size(image: Image.Image) -> tuple[int, int]:
    if max(image.size) > _MAX_SIDE:
        raise PictureError(_TOO_LARGE)
    return image.size


@contextmanager
def _explained(said: Sequence[str] = ()) -> Iterator[None]:
    """Says in plain words why a file cannot be decoded.

    Args:
        said: What a library has said about it besides.

    Raises:
        PictureError: Whatever goes wrong inside.
    """
    try:
        yield
    except PictureError:
        raise
    except levels.NoKnownRange as error:
        raise PictureError(str(error)) from None
    except UnidentifiedImageError:
        raise PictureError(f"not a {kinds.readable()} file, or damaged at its start") from None
    except Image.DecompressionBombError:
        raise PictureError(_TOO_LARGE) from None
    except MemoryError:
        raise CannotReadNow("there is not enough memory to read it") from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged input
        detail = _printable("; ".join([*said[:2], str(error)]))
        reason = "truncated" if "truncated" in detail.lower() else "damaged"
        raise PictureError(f"the picture is {reason} ({detail})") from error


def _opened(data: bytes) -> Image.Image:
    """The file with its header read; its content decides what it is.

    Raises:
        UnidentifiedImageError: If it is of no known kind.
        CannotReadNow: If it is of one that needs another package.
    """
    try:
        return Image.open(io.BytesIO(data), formats=kinds.readers())
    except UnidentifiedImageError:
        kind = kinds.recognized(data)
        if kind is None or kind.reader in kinds.readers():
            raise
        if not kind.available():
            raise CannotReadNow(
                f'{kind.name} files can be read after pip install "{kind.package}"; or save it as PNG or JPEG'
            ) from None
    return Image.open(io.BytesIO(data), formats=(kind.reader,))


def _printable(text: str) -> str:
    """A library's own words, fit for a line of a message."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= _LONGEST_DETAIL else plain[: _LONGEST_DETAIL - 1] + "…"


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _layered(image: Image.Image) -> Image.Image:
    """RGBA; a grey TIFF may have its alpha multiplied into the grey, which Pillow undoes in two steps."""
    if image.mode == "RGBA":
        return image  # converting it would copy it
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _on_background(
    image: Image.Image, profile: bytes | None, background: str, notes: list[str]
) -> tuple[Image.Image, bool]:
    """8-bit sRGB without transparency, and whether anything was transparent; adds to the notes."""
    if not _has_alpha(image):
        return _srgb(image, profile, notes), False
    gray = image.mode in ("L", "LA", "La")
    layered = _layered(image)
    alpha = layered.getchannel("A")
    opaque = alpha.getextrema()[0] == 255
    # Without a profile the colors are right as they are, and need no copy.
    colors = _srgb(layered.convert("L" if gray else "RGB"), profile, notes) if profile or opaque else layered
    if opaque:
        return colors, False
    flat = Image.new("RGB", image.size, background)
    flat.paste(colors, mask=alpha)
    return flat, True


def _srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Converts any opaque picture to sRGB, by the ICC profile where there is one; adds to the notes."""
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")  # 1, P, YCbCr, HSV, LAB
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if not ImageCms.getProfileDescription(source).startswith("sRGB"):
                target = ImageCms.createProfile("sRGB")
                if image.mode == "RGB":  # in place: a large picture stays in memory once
                    ImageCms.profileToProfile(image, source, target, inPlace=True)
                else:
                    image = ImageCms.profileToProfile(image, source, target, outputMode="RGB") or image
        except (ImageCms.PyCMSError, ImportError, OSError, ValueError):
            notes.append("its color profile does not fit it and was ignored")
    return image if image.mode == "RGB" else image.convert("RGB")
