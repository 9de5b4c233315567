"""Contact sheets of captioned pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageChops

from finetune.drawing import Shown, contact_sheets

RED, BLUE = (220, 30, 30), (30, 30, 220)
CELL, GAP = 320, 24
LONG = "a photo of a very small striped orange cat with a bell and a green hat, " * 20


def picture(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def one(*shown: Shown) -> Image.Image:
    pages = list(contact_sheets(shown))
    assert len(pages) == 1
    return pages[0]


def colours(sheet: Image.Image) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(np.asarray(sheet).reshape(-1, 3), axis=0).tolist()))


def test_shapes_are_kept_side_by_side() -> None:
    sheet = np.asarray(one(Shown(picture(RED, (1000, 500)), ""), Shown(picture(BLUE, (50, 100)), "")))
    for colour, width, height in ((RED, 320, 160), (BLUE, 150, 300)):
        ys, xs = np.nonzero((sheet == colour).all(-1))
        assert (int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1) == (width, height)
    # Both are in the middle of cells of one height.
    reds, blues = (np.nonzero((sheet == c).all(-1))[0].mean() for c in (RED, BLUE))
    assert reds == pytest.approx(blues)


@pytest.mark.parametrize(
    ("count", "columns", "pages"), [(1, 1, 1), (3, 3, 1), (12, 4, 1), (60, 8, 1), (64, 8, 1), (150, 8, 3)]
)
def test_pages_stay_below_4000_pixels(count: int, columns: int, pages: int) -> None:
    sheets = list(contact_sheets(Shown(picture(), LONG, LONG) for _ in range(count)))
    assert len(sheets) == pages
    assert all(max(sheet.size) <= 4000 for sheet in sheets)
    assert sheets[0].width == GAP + columns * (CELL + GAP)


def test_no_pictures_make_no_page() -> None:
    assert list(contact_sheets([])) == []


def test_a_caption_stays_under_its_picture_and_only_what_is_warned_of_is_marked() -> None:
    plain = one(Shown(picture(), ""), Shown(picture(), ""))
    sheet = one(Shown(picture(), LONG), Shown(picture(), ""))
    assert sheet.width == plain.width
    under = sheet.crop((0, GAP + CELL, sheet.width, sheet.height))
    ink = ImageChops.invert(under).getbbox()
    assert ink is not None
    assert ink[0] >= GAP and ink[2] <= GAP + CELL and ink[3] < under.height

    warned = one(Shown(picture(), "a cat"), Shown(picture(), "a cat", "blurred"))
    marked = colours(warned.crop((GAP + CELL + GAP - 6, 0, warned.width, warned.height)))
    unmarked = colours(warned.crop((0, 0, GAP + CELL + 6, warned.height)))
    assert (190, 75, 0) in marked - unmarked


def test_pictures_are_taken_one_by_one() -> None:
    taken: list[int] = []

    def many() -> Iterator[Shown]:
        for number in range(1000):
            taken.append(number)
            yield Shown(picture(), str(number))

    next(contact_sheets(many()))
    assert len(taken) == 64


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (1, 700)])
def test_any_picture_and_any_text_are_drawn(mode: str, size: tuple[int, int]) -> None:
    sheet = one(Shown(Image.new(mode, size), "一只🐱\ud800\x07\u202e", "é ж"))
    assert sheet.width == 2 * GAP + CELL
