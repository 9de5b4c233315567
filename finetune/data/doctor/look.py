"""What a picture looks like, in a few numbers."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.data import kinds
from finetune.data.decode import BACKGROUND, alone_if_large, decode_picture
from finetune.data.doctor.shift import shift_between
from finetune.data.folder import Picture
from finetune.data.origin import unchanged

Gray = NDArray[np.float64]

_SIDE = 512  # pixels at which sharpness is judged, at most
_HASHED, _WAVES = 32, 8  # a 32 x 32 picture and its 8 x 8 slowest waves
_TILES = 8
# The table of the JPEG standard (ITU T.81, K.1), which libjpeg scales by the quality: its sum.
_STANDARD_SUM = 3688


@dataclass(frozen=True)
class Look:
    """What a picture looks like.

    Attributes:
        kind: Of its file, as people call it.
        hash: 63 bits that nearly equal pictures have in common.
        mirrored: The same of its mirror image.
        contrast: Standard deviation of the gray levels, 0 to 127.
        sharpness: See `sharpness`.
        quality: JPEG's, 1 to 100; None for other kinds.
        shift: How far its control picture is displaced, down and to the right, as shares of its height
            and width.
    """

    kind: str
    hash: int
    mirrored: int
    contrast: float
    sharpness: float
    quality: int | None = None
    shift: tuple[float, float] = (0.0, 0.0)


def look_at(picture: Picture, resolution: int, control: Picture | None = None) -> Look:
    """Decodes a picture and measures it; call it inside the reader's `map`.

    Args:
        picture: The picture.
        resolution: Side in pixels that it is trained at.
        control: Its control picture, if it has one of its own.

    Raises:
        DataError: If the file was changed since it was scanned.
    """
    data = unchanged(picture.origin, picture.digest, "picture")
    with alone_if_large(picture.width * picture.height):
        whole = decode_picture(data, picture.background or BACKGROUND).image.convert("L")
    gray = _reduced(whole, min(resolution, _SIDE))
    levels = np.asarray(gray, dtype=np.float64)
    small = np.asarray(gray.resize((_HASHED, _HASHED), Image.Resampling.LANCZOS), dtype=np.float64)
    shift = (0.0, 0.0)
    if control is not None and control.digest != picture.digest:
        with control.opened() as other:
            shift = shift_between(whole, other.convert("L"))
    kind, quality = _file(data)
    return Look(
        kind,
        perceptual_hash(small),
        perceptual_hash(small[:, ::-1]),
        float(levels.std()),
        sharpness(levels),
        quality,
        shift,
    )


def _reduced(gray: Image.Image, side: int) -> Image.Image:
    """The picture with its shorter side at most `side`."""
    if (factor := side / min(gray.size)) >= 1:
        return gray
    width, height = (max(1, round(length * factor)) for length in gray.size)
    return gray.resize((width, height), Image.Resampling.LANCZOS)


def perceptual_hash(gray: Gray) -> int:
    """A hash that small changes of a picture leave nearly as it is.

    Which of the 63 slowest waves of its cosine transform are above their median (pHash: Zauner 2010,
    "Implementation and Benchmarking of Perceptual Image Hash Functions").

    Args:
        gray: `[32, 32]`.
    """
    positions = np.arange(_HASHED)
    waves = np.cos(np.pi * np.outer(np.arange(_WAVES), 2 * positions + 1) / (2 * _HASHED))
    strengths = (waves @ gray @ waves.T).ravel()[1:]  # without the mean
    bits = strengths > np.median(strengths)
    return int("".join("1" if bit else "0" for bit in bits), 2)


def sharpness(gray: Gray) -> float:
    """Variance of the Laplacian in the sharpest tenth of a picture, relative to the variance of its levels.

    The variance of the Laplacian is that of Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield
    microscopy". Only the sharpest parts count, since a blurred background is often wanted.

    Args:
        gray: `[height, width]`, 0 to 255.

    Returns:
        0 for a picture of one level or of less than 10 pixels.
    """
    variance = gray.var()
    inner = gray[1:-1, 1:-1]
    rows, columns = (length // _TILES for length in inner.shape)
    if not variance or not rows or not columns:
        return 0.0
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * inner
    tiles = laplacian[: rows * _TILES, : columns * _TILES].reshape(_TILES, rows, _TILES, columns)
    return float(np.quantile(tiles.var(axis=(1, 3)), 0.9) / variance)


def _file(data: bytes) -> tuple[str, int | None]:
    """The kind of a file that can be decoded, and its JPEG quality."""
    with Image.open(io.BytesIO(data), formats=kinds.readers()) as image:
        reader = "JPEG" if image.format == "MPO" else image.format
        kind = next((kind.name for kind in kinds.KINDS if kind.reader == reader), str(reader))
        tables = getattr(image, "quantization", None) if reader == "JPEG" else None
        return kind, jpeg_quality(list(tables[0])) if tables and 0 in tables else None


def jpeg_quality(luminance: list[int]) -> int:
    """The quality (1 to 100) at which libjpeg writes a table as coarse as this.

    For libjpeg's own tables it is exact to 2 from 20 on; below that it is too high, since
    their numbers end at 255.

    Args:
        luminance: The 64 numbers of a JPEG's quantization table.
    """
    scale = 100 * sum(luminance) / _STANDARD_SUM
    quality = 100 - scale / 2 if scale <= 100 else 5000 / scale
    return max(1, min(100, round(quality)))
