"""Fonts that have the letters, and lines that fit."""

from __future__ import annotations

import pytest
from PIL import ImageFont

from finetune.drawing import font_for, line_height, wrapped
from finetune.drawing.lettering import Font

TEXTS = [
    "a photo of a cat",
    "",
    " \t ",
    "x" * 500,
    "一只橙色的猫坐在窗边" * 9,
    "🐱👩‍👩‍👧 é ж \ud800 \x07 \u202e",
    "a " * 400,
]


def test_plain_english_is_drawn_in_pillows_own_font() -> None:
    assert font_for(["a photo of mycat"], 15) is font_for([], 15)
    assert isinstance(font_for([], 15), ImageFont.FreeTypeFont)


def test_other_letters_in_a_font_that_has_them() -> None:
    try:
        other = ImageFont.truetype("DejaVuSans.ttf", 15)
    except OSError:
        pytest.skip("this machine has no such font")
    font = font_for(["mycat on the béach, жёлтый"], 15)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.getname() == other.getname()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", [40, 320])
def test_lines_fit_and_lose_nothing_unless_there_are_too_many(text: str, width: int) -> None:
    font = font_for([text], 15)
    every = wrapped(text, font, width, most=1000)
    assert all(font.getlength(line) <= width for line in every)
    assert "".join("".join(every).split()) == "".join(text.split())
    few = wrapped(text, font, width, most=2)
    assert len(few) == min(2, len(every))
    assert all(font.getlength(line) <= width for line in few)
    assert (few == every) != (bool(few) and few[-1].endswith("…"))


def test_a_line_is_broken_at_spaces_and_cut_between_words() -> None:
    font = font_for([], 15)
    width = int(font.getlength("three words here …")) + 1
    assert wrapped("some words and three words here that", font, width, 9)[0] == "some words and"
    assert wrapped("three words here that go on", font, width, 1) == ["three words here …"]


@pytest.mark.parametrize("font", [font_for([], 15), ImageFont.load_default_imagefont()])
def test_lines_do_not_touch(font: Font) -> None:
    top, bottom = font.getbbox("gjÄ|")[1::2] if isinstance(font, ImageFont.FreeTypeFont) else (0, 11)
    assert line_height(font) >= bottom - top
