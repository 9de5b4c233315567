"""Contact sheets of a data set: each picture with its caption, and a warning where there is one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from PIL import Image, ImageDraw

from finetune.drawing.lettering import Font, font_for, line_height, wrapped

_CELL, _GAP, _SPACE = 320, 24, 8  # pixels: a cell's width, between cells, above text
_SIZE = 15  # of the font, in pixels
_COLUMNS = 8
_PAGE = _COLUMNS * 8  # pictures; with as much text as there may be under them, 4000 pixels high
_LINES, _WARNING_LINES = 6, 2  # under a picture, and those of them that a warning may take
_PAPER, _MAT, _INK, _WARNING = (255, 255, 255), (243, 243, 246), (60, 60, 67), (190, 75, 0)


@dataclass(frozen=True)
class Shown:
    """A picture on a contact sheet.

    Attributes:
        image: As the model sees it.
        caption: Its text.
        warning: What is wrong with it, in a few words; empty if nothing is.
    """

    image: Image.Image
    caption: str
    warning: str = ""


@dataclass(frozen=True)
class _Cell:
    """A picture as large as it is drawn, and the lines under it."""

    image: Image.Image
    warning: list[str]
    caption: list[str]


def contact_sheets(pictures: Iterable[Shown]) -> Iterator[Image.Image]:
    """Draws pictures of any shapes in rows, their captions under them; one with a warning is marked.

    Large pictures are reduced, small ones are enlarged by a whole factor.

    Args:
        pictures: Taken one by one and reduced at once, so they need not all be in memory.

    Yields:
        Pages of at most 64 pictures, less than 4000 pixels on a side.
    """
    remaining = iter(pictures)
    while page := [_reduced(shown) for shown in islice(remaining, _PAGE)]:
        yield _page(page)


def _reduced(shown: Shown) -> Shown:
    largest = max(shown.image.size)
    factor = _CELL / largest if largest > _CELL else _CELL // largest
    width, height = (max(1, round(side * factor)) for side in shown.image.size)
    way = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    return replace(shown, image=shown.image.convert("RGB").resize((width, height), way))


def _page(pictures: Sequence[Shown]) -> Image.Image:
    font = font_for((text for shown in pictures for text in (shown.caption, shown.warning)), _SIZE)
    line = line_height(font)
    cells = [_cell(shown, font) for shown in pictures]
    columns = len(cells) if len(cells) <= 4 else min(_COLUMNS, max(4, math.ceil(math.sqrt(len(cells)))))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    mats = [max(cell.image.height for cell in row) for row in rows]
    texts = [max(len(cell.warning) + len(cell.caption) for cell in row) * line for row in rows]
    height = _GAP + sum(mats) + sum(texts) + len(rows) * (_SPACE + _GAP)
    sheet = Image.new("RGB", (_GAP + columns * (_CELL + _GAP), height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, mat, text in zip(rows, mats, texts, strict=True):
        for column, cell in enumerate(row):
            _draw(sheet, draw, cell, (_GAP + column * (_CELL + _GAP), top), mat, font)
        top += mat + _SPACE + text + _GAP
    return sheet


def _cell(shown: Shown, font: Font) -> _Cell:
    warning = wrapped(shown.warning, font, _CELL, _WARNING_LINES)
    return _Cell(shown.image, warning, wrapped(shown.caption, font, _CELL, _LINES - len(warning)))


def _draw(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: _Cell, place: tuple[int, int], mat: int, font: Font
) -> None:
    """Draws a cell with its top left corner at `place`, its picture in the middle of a mat of that height."""
    left, top = place
    box = (left, top, left + _CELL - 1, top + mat - 1)
    draw.rectangle(box, _MAT)
    picture = cell.image
    sheet.paste(picture, (left + (_CELL - picture.width) // 2, top + (mat - picture.height) // 2))
    if cell.warning:
        draw.rectangle([box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4], outline=_WARNING, width=4)
        _triangle(draw, left + 10, top + 10)
    bottom, line = top + mat + _SPACE, line_height(font)
    for number, text in enumerate([*cell.warning, *cell.caption]):
        ink = _WARNING if number < len(cell.warning) else _INK
        draw.text((left, bottom + number * line), text, fill=ink, font=font)


def _triangle(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    """A warning sign, drawn since few fonts have one."""
    corners = [(left + 18, top), (left + 36, top + 32), (left, top + 32)]
    draw.polygon(corners, fill=(255, 255, 255), outline=_WARNING, width=4)
    draw.line([(left + 18, top + 11), (left + 18, top + 20)], fill=_WARNING, width=4)
    draw.ellipse((left + 16, top + 23, left + 20, top + 27), fill=_WARNING)
