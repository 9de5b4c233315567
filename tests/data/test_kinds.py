"""Kinds of files: content decides, and what is missing is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.decode import SUFFIXES, CannotReadNow, PictureError, decode_picture
from finetune.data.facts import FactsIndex
from finetune.data.folder import scan_folder
from finetune.data.kinds import KINDS, recognized, version_for
from finetune.data.read import Reader
from tests.data.conftest import painted

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
JXL = (b"\xff\x0a\x10\x20", b"\0\0\0\x0cJXL \r\n\x87\n")


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    image = painted(20, 30)
    for number, suffix in enumerate(SUFFIXES):
        kind = ("PNG", "BMP", "TIFF", "JPEG2000")[number % 4]
        image.save(tmp_path / f"{number:02}{suffix.upper()}", kind)
    folder = scan_folder(tmp_path, "x")
    assert len(folder.pictures) == len(SUFFIXES) and not folder.skipped
    for picture in folder.pictures:
        assert (np.asarray(picture.read()) == np.asarray(image)).all()


def test_every_kind_is_pillows() -> None:
    Image.init()
    for kind in KINDS:
        if not kind.module:
            assert kind.reader in Image.OPEN
            assert {Image.EXTENSION[suffix] for suffix in kind.suffixes if suffix in Image.EXTENSION} == {
                kind.reader
            }


@pytest.mark.parametrize(
    ("data", "package"), [(HEIC, "pillow-heif"), *((j, "pillow-jxl-plugin") for j in JXL)]
)
def test_a_missing_plugin_is_named_and_the_file_is_tried_again_later(
    tmp_path: Path, data: bytes, package: str
) -> None:
    kind = recognized(data)
    assert kind is not None and kind.package == package
    if kind.available():
        pytest.skip(f"{package} is installed")
    reason = f'pip install "{package}"; or save it as PNG or JPEG'
    with pytest.raises(CannotReadNow, match=reason):
        decode_picture(data)
    painted(8, 8).save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(data)
    folder = scan_folder(tmp_path, "x", reader=Reader(index=FactsIndex(tmp_path / "facts")))
    assert reason in folder.skipped[0].reason
    assert len(list((tmp_path / "facts").iterdir())) == 1  # of the PNG
    assert package in version_for(data) and package not in version_for(b"\x89PNG")


@pytest.mark.parametrize("name", ["HEIC", "JPEG XL"])
def test_a_plugin_that_is_installed_reads_its_kind(name: str) -> None:
    kind = next(k for k in KINDS if k.name == name)
    if not kind.available():
        pytest.skip(f"{kind.package} is not installed")
    image, file = painted(64, 48), io.BytesIO()
    image.save(file, kind.reader, quality=95)
    data = file.getvalue()
    assert recognized(data) == kind
    found = np.asarray(decode_picture(data).image).astype(int)
    assert np.abs(found - np.asarray(image)).mean() < 4
    with pytest.raises(PictureError):
        decode_picture(data[: len(data) // 2])


def test_a_damaged_file_is_not_taken_for_one_of_a_missing_kind() -> None:
    for data in (b"GIF", b"\0\0\0\x18ftypavif" + bytes(20), b"<html>"):
        with pytest.raises(PictureError, match=r"damaged|not a PNG, JPEG, WebP, AVIF") as error:
            decode_picture(data)
        assert not isinstance(error.value, CannotReadNow)
