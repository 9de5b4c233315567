"""Contact sheets."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops

from finetune.sampling.grid import grid, laid_out

RED, BLUE = (220, 30, 30), (30, 30, 220)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_small_pictures_are_enlarged_by_a_whole_factor_on_white() -> None:
    sheet = grid([picture(RED), picture(BLUE)], columns=2)
    gap = 8
    assert sheet.size == (3 * gap + 2 * 192, 2 * gap + 192)
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    assert sheet.getpixel((gap + 96, gap + 96)) == RED
    assert sheet.getpixel((2 * gap + 192 + 96, gap + 96)) == BLUE


def test_large_pictures_are_reduced() -> None:
    assert grid([picture(RED, (1024, 768))]).size == (512 + 2 * 21, 384 + 2 * 21)


def test_shapes_may_differ() -> None:
    sheet = grid([picture(RED, (64, 32)), picture(BLUE, (32, 64))], columns=2)
    assert sheet.getpixel((8 + 96, 8 + 96)) == RED
    assert sheet.getpixel((16 + 192 + 96, 8 + 96)) == BLUE
    assert sheet.getpixel((8 + 96, 8 + 8)) == (255, 255, 255)


def test_says_where_each_picture_is() -> None:
    pictures = [picture(RED, (64, 32)), picture(BLUE, (32, 64)), picture(RED, (64, 64))]
    sheet, places = laid_out(pictures, columns=2, labels=["a", "a longer one " * 9, ""])
    for place, own in zip(places, pictures, strict=True):
        part = sheet.crop(place)
        assert part.size == (3 * own.width, 3 * own.height)
        assert part.getcolors() == [(part.width * part.height, own.getpixel((0, 0)))]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3)])
def test_is_about_square(count: int, columns: int, rows: int) -> None:
    width, height = grid([picture(RED)] * count).size
    assert ((width - 8) // 200, (height - 8) // 200) == (columns, rows)


def test_labels_stay_in_their_cells_and_make_room() -> None:
    label = (
        "a photo of a very small striped orange cat with a bell wearing a green hat in the desert at night"
    )
    bare = grid([picture(RED)] * 2, columns=2)
    sheet = grid([picture(RED)] * 2, columns=2, labels=[label, ""])
    assert sheet.width == bare.width
    assert sheet.height > bare.height
    under = sheet.crop((0, 8 + 192, sheet.width, sheet.height))
    ink = ImageChops.invert(under).getbbox()
    assert ink is not None
    left, _, right, bottom = ink
    assert left >= 8
    assert right <= 8 + 192
    assert bottom < under.height


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="at least one"):
        grid([])
    with pytest.raises(ValueError, match="1 pictures but 2 labels"):
        grid([picture(RED)], labels=["a", "b"])
