"""Any file that Pillow can write, and files that nothing can read."""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms

from finetune.data.decode import PictureError, decode_alpha, decode_picture, quiet_pillow
from tests.data.conftest import painted


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    with quiet_pillow():
        image = decode_picture(data).image
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


LOSSLESS: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("PNG", "BMP", "TIFF", "JPEG2000")},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_keep_every_pixel(kind: str) -> None:
    image = painted(20, 30)
    near = 3 if kind == "AVIF" else 0  # its colors are YCbCr of 8 bits
    assert np.abs(pixels(encoded(image, kind, **LOSSLESS[kind])) - np.asarray(image)).max() <= near


def test_a_gif_gives_its_first_frame_on_the_background() -> None:
    first = Image.new("P", (6, 4), 1)
    first.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    first.putpixel((2, 1), 0)
    data = encoded(first, "GIF", transparency=0, save_all=True, append_images=[Image.new("P", (6, 4), 2)])
    found = decode_picture(data, "#00ff00")
    expected = np.full((4, 6, 3), (200, 0, 0))
    expected[1, 2] = (0, 255, 0)
    assert (np.asarray(found.image) == expected).all()
    assert found.transparent and found.notes == ("only the first of its 2 frames is used",)


def test_jpeg_is_turned_upright() -> None:
    image = painted(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise
    upright = pixels(encoded(image, "JPEG", quality=95, exif=exif))
    plain = pixels(encoded(image, "JPEG", quality=95))
    assert (upright == np.rot90(plain, -1)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "tRNS"])
def test_transparent_parts_become_the_background_and_it_is_known(mode: str) -> None:
    if mode in ("RGBA", "LA"):
        image = painted(8, 8).convert(mode)
        image.putpixel((0, 0), (0, 0, 0, 0)[-len(mode) :] if mode == "LA" else (0, 0, 0, 0))
        data = encoded(image, "PNG")
    else:
        image = Image.new("P" if mode == "P" else "RGB", (8, 8), 1 if mode == "P" else (200, 0, 0))
        image.putpalette([0, 0, 0, 200, 0, 0]) if mode == "P" else None
        image.putpixel((0, 0), 0 if mode == "P" else (0, 0, 0))
        data = encoded(image, "PNG", transparency=0 if mode == "P" else (0, 0, 0))
    decoded = decode_picture(data)
    assert decoded.image.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.image.getpixel((4, 4)) != (255, 255, 255)
    assert decoded.transparent and not decoded.notes
    for color, level in (("black", (0, 0, 0)), ("#102030", (16, 32, 48))):
        assert decode_picture(data, color).image.getpixel((0, 0)) == level


def associated(tiff: bytes) -> bytes:
    """The same TIFF, whose extra channel (tag 338) is said to be multiplied into the others."""
    extra = struct.pack("<HHIH", 338, 3, 1, 2)
    assert tiff.count(extra) == 1
    return tiff.replace(extra, struct.pack("<HHIH", 338, 3, 1, 1))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparency_of_a_tiff(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (50, 50, 50, 128)).convert(mode)
    tiff = encoded(image, "TIFF")
    # 50 by half and white by half; where the half is in the 50 already, white alone is added.
    cases = {tiff: 50 * 128 / 255 + 127}
    # Pillow below 13 refuses gray ones of this kind, which are then named as unreadable.
    if mode == "RGBA" or (mode == "LA" and int(PIL.__version__.split(".")[0]) >= 13):
        cases[associated(tiff)] = 50 + 127
    for data, level in cases.items():
        assert np.abs(pixels(data) - level).max() <= 1
        assert decode_picture(data).transparent
        alpha = decode_alpha(data)
        assert alpha is not None and alpha.getextrema() == (128, 128)


def test_the_alpha_of_other_kinds_of_files_is_not_even_tried() -> None:
    with pytest.raises(PictureError, match="not a PNG"):
        decode_alpha(encoded(painted(4, 4), "PPM"))


def test_half_transparent_black_on_white_is_grey_and_an_opaque_alpha_channel_is_no_news() -> None:
    assert pixels(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 127)), "PNG"))[0, 0].tolist() == [128] * 3
    assert not decode_picture(encoded(painted(4, 4).convert("RGBA"), "PNG")).transparent


def test_16_bit_grey_keeps_its_range() -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(values), "PNG"))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert pixels(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_levels_are_rounded_to_the_nearest() -> None:
    levels = np.arange(0, 65536, dtype=np.uint16).reshape(256, 256)
    nearest = (levels.astype(int) + 128) // 257  # 257 steps of 16 bits are one of 8
    assert (pixels(encoded(Image.fromarray(levels), "PNG"))[..., 0] == nearest).all()


def test_float_pixels_need_a_known_range() -> None:
    known = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert pixels(encoded(known, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    for strange in (3.0, float("nan")):
        with pytest.raises(PictureError, match="no known range"):
            decode_picture(encoded(Image.fromarray(np.full((2, 2), strange, dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert np.abs(pixels(encoded(cyan, kind))[4, 4] - [0, 255, 255]).max() <= 2


def test_one_bit_and_grey_pictures() -> None:
    assert pixels(encoded(Image.new("1", (4, 4), 1), "PNG")).min() == 255
    assert pixels(encoded(Image.new("L", (4, 4), 77), "PNG"))[0, 0].tolist() == [77] * 3


def test_colours_are_read_by_the_profile() -> None:
    # A profile whose red primary is sRGB's blue one and the other way round, under another name.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for a, b in ((b"rXYZ", b"????"), (b"bXYZ", b"rXYZ"), (b"????", b"bXYZ")):
        profile = profile.replace(a, b)
    profile = profile.replace("sRGB".encode("utf-16-be"), "sBGR".encode("utf-16-be"))
    image = painted(16, 16)
    data = encoded(image, "PNG", icc_profile=profile)
    assert np.abs(pixels(data) - np.asarray(image).astype(int)[..., ::-1]).max() <= 2
    assert decode_picture(data).image.info == {}  # the profile is no longer true
    # The background is sRGB already: the profile is not of it.
    image.putalpha(0)
    hidden = decode_picture(encoded(image, "PNG", icc_profile=profile), "#ff8000").image
    assert hidden.getcolors() == [(256, (255, 128, 0))]


def test_a_broken_profile_is_told() -> None:
    decoded = decode_picture(encoded(painted(4, 4), "PNG", icc_profile=b"no profile"))
    assert decoded.notes == ("its color profile does not fit it and was ignored",)
    assert (np.asarray(decoded.image) == np.asarray(painted(4, 4))).all()


def test_an_animation_gives_its_first_frame() -> None:
    frames = [painted(8, 8, i) for i in range(3)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode_picture(data).notes == ("only the first of its 3 frames is used",)
    assert (pixels(data) == np.asarray(frames[0])).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "JPEG2000", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = encoded(painted(64, 64), kind)
    with quiet_pillow(), pytest.raises(PictureError):
        decode_picture(data[: int(len(data) * share)])


def test_reasons_are_plain_words() -> None:
    whole = encoded(painted(64, 64), "JPEG")
    for data, reason in [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not a PNG, JPEG"),
        (whole[:-200], "truncated"),
    ]:
        with pytest.raises(PictureError, match=reason):
            decode_picture(data)


def test_a_flipped_bit_is_found_by_the_checksum() -> None:
    data = bytearray(encoded(painted(64, 64), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(PictureError, match="damaged"):
        decode_picture(bytes(data))


def test_a_decompression_bomb_is_refused_before_it_fills_the_memory() -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    with pytest.raises(PictureError, match="far too large"):
        decode_picture(data)


def test_an_absurd_side_is_refused_at_once() -> None:
    file = io.BytesIO()
    Image.new("RGB", (24, 16)).save(file, "BMP")
    data = bytearray(file.getvalue())
    data[18:22] = struct.pack("<I", 60_000)
    with pytest.raises(PictureError, match="far too large"):
        decode_picture(bytes(data))


def test_other_formats_are_not_even_tried() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(PictureError, match="not a PNG"):
        decode_picture(postscript)


def test_libraries_write_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    Image.effect_noise((24, 16), 90).save(file, "TIFF", compression="tiff_adobe_deflate")
    data = bytearray(file.getvalue())
    data[12:40] = bytes(28)  # within the compressed pixels
    # libtiff's own line, which says more than Pillow's exception.
    with pytest.raises(PictureError, match=r"damaged \(.*ZIPDecode: Decoding error.*\)") as error:
        decode_picture(bytes(data))
    assert str(error.value).isprintable()
    os.write(2, b"mine")  # and afterwards it is as before
    assert capfd.readouterr().err == "mine"


def test_pillow_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = encoded(painted(8, 8), "TIFF")
    samples = struct.pack("<HHI", 277, 3, 1)
    assert data.count(samples) == 1
    place = data.index(samples) + len(samples)
    damaged = data[:place] + struct.pack("<H", 60_000) + data[place + 2 :]
    with quiet_pillow(), pytest.raises(PictureError):
        decode_picture(damaged)
    assert not caplog.records
    with pytest.raises(PictureError):  # outside it does
        decode_picture(damaged)
    assert caplog.records
