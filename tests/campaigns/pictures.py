"""Broken and odd pictures: RGB of the right size, or skipped with a reason; no stray output, no hangs."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageCms

from finetune.data import scan_folder
from finetune.data.decode import PictureError, decode_alpha, decode_picture, quiet_pillow
from finetune.data.kinds import KINDS
from finetune.errors import DataError
from tests.campaigns.campaign import Campaign, Verdict, time_limit

SECONDS = 5  # after which an attack counts as hanging
USUAL = 0.5  # most seconds that a picture of this size may take
SCANNED = 20  # every 20th attack goes through `scan_folder`
SIDE = (24, 16)
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB", "YCbCr"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
}
# Those of plugins too, where they are installed.
MODES |= {kind.reader: ("RGB", "RGBA") for kind in KINDS if kind.module and kind.available()}
NAMES = (
    *("a b.png", "a\nb.jp2", "\x1b[31m.jpg", "ключ.webp", "🐈.avif", "…\u202e.png", "x" * 200 + ".png"),
    *("-rf.png", "a.PNG.jpg"),
)


def picture(draw: random.Random, mode: str) -> Image.Image:
    """Noise in one mode."""
    values = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (SIDE[1], SIDE[0], 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(values[..., 0].astype(np.float32) / 255)
    if mode == "LAB":
        return Image.merge("LAB", [Image.fromarray(values[..., i].copy()) for i in range(3)])
    return Image.fromarray(values).convert("RGB").convert(mode) if mode != "RGBA" else Image.fromarray(values)


def extras(kind: str, draw: random.Random) -> dict[str, Any]:
    """EXIF, color profiles, compression, progressive JPEG and frames, valid or not."""
    chosen: dict[str, Any] = {}
    if draw.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = draw.choice((1, 3, 6, 8, 0, 99, 65535))
        data = exif.tobytes()
        junk = draw.random() < 0.3
        chosen["exif"] = data[:6] + draw.randbytes(40) if junk else data
    if draw.random() < 0.3:
        profile = ImageCms.ImageCmsProfile(
            ImageCms.createProfile(draw.choice(("sRGB", "LAB", "XYZ")))
        ).tobytes()
        chosen["icc_profile"] = draw.choice(
            (profile, flipped(profile, draw), profile[:40], b"junk", b"\x00" * 200)
        )
    if kind == "TIFF":
        chosen["compression"] = draw.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"))
    if kind == "JPEG":
        chosen["progressive"] = draw.random() < 0.3
    if kind in ("PNG", "WEBP", "GIF", "TIFF") and draw.random() < 0.15:
        chosen |= {"save_all": True, "append_images": [Image.new("RGB", SIDE, "red")]}
    return chosen


def encoded(draw: random.Random) -> tuple[str, bytes]:
    """A valid file of a random kind."""
    kind = draw.choice(sorted(MODES))
    image, file = picture(draw, draw.choice(MODES[kind])), io.BytesIO()
    try:
        image.save(file, kind, **extras(kind, draw))
    except (
        OSError,
        ValueError,
        KeyError,
        SyntaxError,
        struct.error,
        RuntimeError,
    ):  # the format does not support it
        file = io.BytesIO()
        image.convert("RGB").save(file, kind)
    return kind, file.getvalue()


def flipped(data: bytes, draw: random.Random) -> bytes:
    """Some bytes are changed."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 30))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    """Truncated, or with extra bytes at the end."""
    return data[: draw.randrange(len(data))] if draw.random() < 0.7 else data + draw.randbytes(50)


def resized(data: bytes, draw: random.Random) -> bytes:
    """Absurd numbers for sizes and offsets."""
    place = draw.randrange(min(80, len(data) - 4))
    value = draw.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, 60000))
    return data[:place] + struct.pack(draw.choice("<>") + "I", value) + data[place + 4 :]


def rechunked(data: bytes, draw: random.Random) -> bytes:
    """A PNG with chunks damaged, dropped, duplicated or moved, with valid checksums."""
    if not data.startswith(b"\x89PNG"):
        return flipped(data, draw)
    chunks = list(png_chunks(data))
    index = draw.randrange(len(chunks))
    name, body = chunks[index]
    match draw.randrange(5):
        case 0:
            chunks[index] = name, flipped(body, draw) if body else draw.randbytes(9)
        case 1:
            del chunks[index]
        case 2:
            chunks.insert(draw.randrange(len(chunks)), chunks[index])
        case 3:
            draw.shuffle(chunks)
        case _:
            other = draw.choice(
                (b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"zTXt", b"iTXt", b"gAMA", b"PLTE")
            )
            chunks.insert(
                draw.randrange(len(chunks)), (other, draw.randbytes(draw.choice((0, 1, 13, 26, 300))))
            )
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each chunk of a valid PNG."""
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def whole(data: bytes, draw: random.Random) -> bytes:
    """Unchanged: odd enough as it is."""
    return data


SPOIL = (whole, flipped, cut, resized, rechunked)


class Attacks(Campaign):
    """Each attack reads a valid, odd or damaged picture."""

    name: ClassVar[str] = "pictures"
    small: ClassVar[int] = 300
    large: ClassVar[int] = 10_000

    def attack(self, number: int) -> Verdict:
        """Draws, damages and reads a picture."""
        draw = random.Random(number)
        with stderr_text():
            kind, data = encoded(draw)
        spoil = draw.choice(SPOIL)
        data = spoil(data, draw)
        scanned = number % SCANNED == 0
        failure: str | None = None
        began = time.monotonic()
        try:
            with time_limit(SECONDS), stderr_text() as said:
                failure = self._scan(data, draw) if scanned else read(data, spoil is whole)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        if not failure and said:
            failure = f"written to standard error: {said[0]}"
        seconds = time.monotonic() - began
        if not failure and seconds > (SECONDS if scanned else USUAL):
            failure = f"{seconds:.2f} s"
        return Verdict("scan" if scanned else f"{kind} {spoil.__name__}", failure)

    def _scan(self, data: bytes, draw: random.Random) -> str | None:
        """Reads a folder with the picture, under an odd name, and a valid one."""
        folder = self.place / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / draw.choice(NAMES)).write_bytes(data)
        Image.new("RGB", SIDE).save(folder / "right.png")
        found = scan_folder(folder)
        if len(found.pictures) + len(found.skipped) != 2:
            return f"{len(found.pictures)} read, {len(found.skipped)} skipped"
        (folder / "right.png").unlink()
        try:
            scan_folder(folder)
        except DataError as error:
            return None if error.where and error.fix else f"where or fix is missing: {error}"
        return None


def read(data: bytes, right: bool) -> str | None:
    """Decodes a picture; returns what is wrong with the result, or None."""
    with quiet_pillow():
        try:
            image = decode_picture(data).image
            alpha = decode_alpha(data)
        except PictureError as error:
            said = str(error)
            return (
                None
                if said.isprintable() and len(said) < 300
                else f"the reason is not printable, or too long: {error!r}"
            )
    if image.mode != "RGB" or min(image.size) < 1 or len(image.tobytes()) != 3 * image.width * image.height:
        return f"{image.mode} of {image.size}"
    if right and sorted(image.size) != sorted(SIDE):
        return f"{image.size} instead of {SIDE}"
    if alpha is not None and alpha.size != image.size:
        return f"transparency of {alpha.size} for {image.size}"
    return None


@contextmanager
def stderr_text() -> Iterator[list[str]]:
    """Captures what is written to file descriptor 2 inside, also by C libraries: one text, or none."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            if text := file.read().decode(errors="replace"):
                said.append(text[:300])
