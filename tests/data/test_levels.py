"""16-bit files, made without Pillow, against the arithmetic of their numbers."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from finetune.data import levels
from finetune.data.decode import PictureError, decode_alpha, decode_picture, quiet_pillow

Values = NDArray[np.uint16]


def png(values: Values, extra: bytes = b"") -> bytes:
    """A PNG of `[H, W, C]` 16-bit values, C as Gray, Gray + Alpha, RGB or RGB + Alpha."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0))]
    chunks += [(b"tRNS", extra)] if extra else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def tiff(values: Values, order: str = "<", planar: bool = False, strips: int = 1) -> bytes:
    """An uncompressed TIFF of `[H, W, 3]` or `[H, W, 4]` 16-bit values."""
    height, width, channels = values.shape
    assert height % strips == 0
    parts = [values[..., c] for c in range(channels)] if planar else np.split(values, strips)
    strings = [part.astype(f"{order}u2").tobytes() for part in parts]
    body = b"".join(strings)
    lengths = [len(s) for s in strings]
    offsets = [8 + sum(lengths[:i]) for i in range(len(lengths))]
    tags: list[tuple[int, int, list[int]]] = [
        *[(256, 4, [width]), (257, 4, [height]), (258, 3, [16] * channels), (259, 3, [1]), (262, 3, [2])],
        *[(273, 4, offsets), (277, 3, [channels]), (278, 4, [height // (1 if planar else strips)])],
        *[(279, 4, lengths), (284, 3, [2 if planar else 1])],
        *([(338, 3, [2])] if channels == 4 else []),
    ]
    after = 8 + len(body) + 2 + 12 * len(tags) + 4
    entries, beyond = b"", b""
    for tag, kind, numbers in tags:
        packed = struct.pack(order + str(len(numbers)) + ("H" if kind == 3 else "I"), *numbers)
        if len(packed) > 4:
            place, beyond = after + len(beyond), beyond + packed
            packed = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body))
    return head + body + struct.pack(order + "H", len(tags)) + entries + bytes(4) + beyond


def lzw(values: Values) -> bytes:
    """A compressed TIFF, by OpenCV; libtiff reads it."""
    cv2 = pytest.importorskip("cv2")
    done, data = cv2.imencode(".tiff", values[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert done
    return bytes(data)


def noise(channels: int, highest: int = 65535, height: int = 6, width: int = 5) -> Values:
    values = np.random.default_rng(channels).integers(0, highest + 1, (height, width, channels), np.uint16)
    values[0, 0] = highest
    return values


def nearest(values: Values, highest: int = 65535) -> NDArray[Any]:
    """The nearest of 256 levels, where `highest` is white."""
    return np.rint(values * (255 / highest)).astype(int)


def decoded(data: bytes) -> NDArray[Any]:
    with quiet_pillow():
        return np.asarray(decode_picture(data).image).astype(int)


FILES = {
    "png": png,
    "tiff little": tiff,
    "tiff big": lambda values: tiff(values, ">"),
    "tiff strips": lambda values: tiff(values, strips=3),
    "tiff planes": lambda values: tiff(values, planar=True),
    "tiff planes big": lambda values: tiff(values, ">", planar=True),
    "tiff lzw": lzw,
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_colors_of_16_bits_become_the_nearest_of_8(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise(3)
    assert (decoded(file(values)) == nearest(values)).all()
    monkeypatch.setattr(levels, "_BAND", 10)  # two rows at a time
    assert (decoded(file(values)) == nearest(values)).all()


@pytest.mark.parametrize("file", [png, tiff])
def test_colors_and_alpha(file: Any) -> None:
    values = noise(4)
    data = file(values)
    alpha = decode_alpha(data)
    assert alpha is not None and (np.asarray(alpha) == nearest(values[..., 3])).all()
    share = values[..., 3:] / 65535
    over_white = values[..., :3] / 257 * share + 255 * (1 - share)
    assert np.abs(decoded(data) - over_white).max() <= 1


def test_gray_and_alpha() -> None:
    values = noise(2)
    data = png(values)
    alpha = decode_alpha(data)
    assert alpha is not None and (np.asarray(alpha) == nearest(values[..., 1])).all()
    share = values[..., 1:] / 65535
    assert np.abs(decoded(data) - (values[..., :1] / 257 * share + 255 * (1 - share))).max() <= 1


@pytest.mark.parametrize(("bits", "factor"), [(10, 64), (12, 16)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_fewer_bits_in_16_are_brightened_and_it_is_said(bits: int, factor: int, channels: int) -> None:
    values = noise(channels, 2**bits - 1)
    colors = channels if channels % 2 else channels - 1
    values[..., colors:] = 65535
    picture = decode_picture(png(values))
    bright = nearest(values[..., :colors] * np.uint16(factor))
    assert (np.asarray(picture.image) == bright).all()
    assert bright.max() == 255
    assert picture.notes == (f"brightened: its 16-bit values fill only {bits} bits",)
    values[..., colors:] = 2**bits - 1  # an alpha of as many bits is opaque too
    assert (decoded(png(values)) == bright).all()


def test_one_value_of_more_bits_leaves_all_as_they_are() -> None:
    values = noise(3, 1000)
    values[3, 3, 1] = 4096
    picture = decode_picture(png(values))
    assert (np.asarray(picture.image) == nearest(values)).all()
    assert picture.notes == ()


def test_a_nearly_black_picture_is_named_and_left_alone() -> None:
    picture = decode_picture(png(noise(3, 255)))
    assert np.asarray(picture.image).max() == 1
    assert picture.notes == ("nearly black: none of its 16-bit values is above 255",)
    assert decode_picture(png(noise(3, 0))).notes == ()


def test_a_transparent_color_of_16_bits_is_told() -> None:
    for values, color in ((noise(1), b"\1\2"), (noise(3), b"\1\2" * 3)):
        picture = decode_picture(png(values, color))
        assert (np.asarray(picture.image) == nearest(values)).all()
        assert picture.notes == ("its transparent color was ignored, since it has 16 bits",)


def test_integers_of_32_bits_need_a_known_range() -> None:
    for value, right in ((65535, True), (65536, False), (-1, False)):
        file = io.BytesIO()
        Image.fromarray(np.array([[value, 0]], np.int32)).save(file, "TIFF")
        if right:
            assert decoded(file.getvalue())[0, :, 0].tolist() == [255, 0]
        else:
            with pytest.raises(PictureError, match="no known range"):
                decode_picture(file.getvalue())


@pytest.mark.parametrize("order", ["<", ">"])
def test_gray_of_either_byte_order(order: str) -> None:
    values = noise(1)[..., 0]
    mode = "I;16" if order == "<" else "I;16B"
    image = Image.frombytes(mode, values.shape[::-1], values.astype(f"{order}u2").tobytes())
    file = io.BytesIO()
    image.save(file, "TIFF")
    assert file.getvalue()[:2] == (b"II" if order == "<" else b"MM")
    assert (decoded(file.getvalue())[..., 0] == nearest(values)).all()
