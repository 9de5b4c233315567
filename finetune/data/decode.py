"""The bytes of a picture file → 8-bit sRGB pixels, whatever the file holds."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""File-name endings that are read as pictures."""

# Named, so that a file with a picture's name cannot reach Pillow's other readers (EPS runs a program).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

_MAX_SIDE = 30_000  # more is a damaged header, on which some readers hang for minutes
_TOO_LARGE = "far too large to be a training picture; scale it down"

_STANDARD_ERROR = threading.Lock()
"""File descriptor 2 belongs to the whole process, so one thread at a time may redirect it."""


class PictureError(ValueError):
    """The bytes are not a picture that can be trained on; the message is the reason in plain words."""


@dataclass(frozen=True)
class Decoded:
    """A picture as it is trained on.

    Attributes:
        image: 8-bit RGB, upright, opaque.
        notes: What was done to the picture that its owner may not expect, e.g. "transparent parts
            became white".
    """

    image: Image.Image
    notes: tuple[str, ...]


@contextmanager
def reading() -> Iterator[ThreadPoolExecutor]:
    """Threads to read pictures in, with Pillow quiet."""
    with quiet_pillow(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield pool


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Mutes Pillow's warnings about odd but readable files.

    Enter it in the thread that starts the readers: warning filters belong to the whole process, so
    entering it in several threads at once would leave them muddled.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@contextmanager
def _quiet_libtiff(data: bytes) -> Iterator[None]:
    """Keeps libtiff from writing to standard error; real errors arrive as exceptions too."""
    if data[:2] not in (b"II", b"MM"):
        yield
        return
    with _STANDARD_ERROR, open(os.devnull, "wb") as nowhere:
        try:
            before = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def decode_picture(data: bytes) -> Decoded:
    """Decodes every pixel of a picture file.

    It is rotated by its EXIF orientation, put on white where transparent, converted to 8 bits and, by
    its ICC profile if it has one, to sRGB. The first frame of an animation is used.

    Args:
        data: The bytes of a PNG, JPEG, WebP, BMP or TIFF file.

    Raises:
        PictureError: If the bytes are empty, truncated, damaged or of another kind.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        with _quiet_libtiff(data), Image.open(io.BytesIO(data), formats=_FORMATS) as probe:
            if max(probe.size) > _MAX_SIDE:
                raise PictureError(_TOO_LARGE)
            probe.verify()  # checksums that decoding alone does not check
        with _quiet_libtiff(data), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            frames = int(getattr(image, "n_frames", 1)) if image.format != "MPO" else 1
            profile = image.info.get("icc_profile")
            image.load()
            flat, transparent = _opaque(ImageOps.exif_transpose(image))
            final, profile_note = _srgb(flat, profile)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("not a PNG, JPEG, WebP, BMP or TIFF file, or damaged at its start") from None
    except Image.DecompressionBombError:
        raise PictureError(_TOO_LARGE) from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged input
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise PictureError(f"the picture is {reason} ({error})") from error
    notes = [profile_note] if profile_note else []
    if transparent:
        notes.append("transparent parts became white")
    if frames > 1:
        notes.append(f"only the first of its {frames} frames is used")
    return Decoded(final, tuple(notes))


def decode_alpha(data: bytes) -> Image.Image | None:
    """The transparency of a picture file: 8-bit gray, 255 where opaque, upright; None if it has none.

    Args:
        data: The bytes of a file that `decode_picture` can read.

    Raises:
        PictureError: If the bytes are not a picture.
    """
    try:
        with _quiet_libtiff(data), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's readers raise nearly anything on damaged input
        raise PictureError(f"the picture is damaged ({error})") from error
    return _layered(upright).getchannel("A") if _has_alpha(upright) else None


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La") or "transparency" in image.info


def _layered(image: Image.Image) -> Image.Image:
    """RGBA; a grey TIFF may have its alpha multiplied into the grey, which Pillow undoes in two steps."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _opaque(image: Image.Image) -> tuple[Image.Image, bool]:
    """8-bit L, RGB or CMYK without transparency, and whether anything was transparent."""
    if image.mode in ("L", "RGB", "CMYK") and "transparency" not in image.info:
        return image, False
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bits(image), False
    if _has_alpha(image):
        layered = _layered(image)
        white = Image.new("RGBA", layered.size, "white")
        lowest = layered.getchannel("A").getextrema()[0]
        return Image.alpha_composite(white, layered).convert("RGB"), lowest != 255
    return image.convert("RGB"), False  # 1, P, YCbCr, HSV


def _eight_bits(image: Image.Image) -> Image.Image:
    """Converts 16-bit integers, or floats between 0 and 1, to 8-bit gray."""
    values = np.asarray(image).astype(np.float64)
    limit = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= limit):
        raise PictureError("its 32-bit pixels have no known range; save it with 8 or 16 bits")
    return Image.fromarray(np.rint(values * (255 / limit)).astype(np.uint8))


def _srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """Converts L, RGB or CMYK to sRGB, by the ICC profile where there is one."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if ImageCms.getProfileDescription(source).startswith("sRGB"):
                return image.convert("RGB"), None
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, ImportError, OSError, ValueError):
            return image.convert("RGB"), "its color profile does not fit it and was ignored"
        if converted is not None:
            return converted, None
    return image.convert("RGB"), None
