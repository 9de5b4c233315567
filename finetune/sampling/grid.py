"""Contact sheets: pictures in rows with their prompts under them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from finetune.drawing import font_for, line_height, wrapped

Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of a picture, in pixels, as Pillow crops it."""

_PAPER, _INK = (255, 255, 255), (60, 60, 67)
_LEAST, _MOST = 192, 512  # sides that a picture is enlarged or reduced to, in pixels
_LINES = 3  # of a label, at most


def to_images(pixels: Tensor) -> list[Image.Image]:
    """`[B, 3, H, W]` in [-1, 1] → RGB pictures, rounded as diffusers does."""
    levels = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(row) for row in levels.permute(0, 2, 3, 1).cpu().numpy()]


def grid(
    images: Sequence[Image.Image], columns: int | None = None, labels: Sequence[str] | None = None
) -> Image.Image:
    """Lays pictures out on white paper; see `laid_out`."""
    return laid_out(images, columns, labels)[0]


def laid_out(
    images: Sequence[Image.Image], columns: int | None = None, labels: Sequence[str] | None = None
) -> tuple[Image.Image, list[Box]]:
    """Lays pictures out on white paper.

    Small pictures are enlarged by a whole factor and large ones reduced, so that a sheet is easy to
    look at whatever the model's size; pictures of different shapes are centered in equal cells.

    Args:
        images: RGB pictures, at least one.
        columns: Pictures in a row; about as many as rows if None.
        labels: A text under each picture; long ones are wrapped and, after three lines, truncated with "…".

    Returns:
        The sheet, and where on it each picture is.

    Raises:
        ValueError: No pictures, or not as many labels as pictures.
    """
    if not images:
        raise ValueError("a grid needs at least one picture")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(images)} pictures but {len(labels)} labels")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    pictures = _scaled(images)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    gap = max(8, width // 24)
    font = font_for(labels or [], max(13, round(width / 15)))
    texts = [wrapped(label, font, width, _LINES) for label in labels or []]
    line = line_height(font)
    # A row is as high as its longest label.
    lines = [max((len(t) for t in texts[r * columns : (r + 1) * columns]), default=0) for r in range(rows)]
    tops = [gap]
    for count in lines:
        tops.append(tops[-1] + height + gap + (count * line + gap // 2 if count else 0))
    sheet = Image.new("RGB", (gap + columns * (width + gap), tops[-1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    boxes: list[Box] = []
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        left, top = gap + column * (width + gap), tops[row]
        x, y = left + (width - picture.width) // 2, top + (height - picture.height) // 2
        sheet.paste(picture, (x, y))
        boxes.append((x, y, x + picture.width, y + picture.height))
        for n, text in enumerate(texts[index] if texts else ()):
            place = (left + width / 2, top + height + gap // 2 + n * line)
            draw.text(place, text, fill=_INK, font=font, anchor="ma")
    return sheet, boxes


def plot(
    images: Sequence[Image.Image], across: Sequence[str], down: Sequence[str], title: str
) -> Image.Image:
    """Lays pictures out by two settings, with a label above each column and to the left of each row.

    Args:
        images: RGB pictures, row by row, `len(across) * len(down)` of them.
        across: What the columns are.
        down: What the rows are; one "" for a single row without a label.
        title: Above it all, cut after two lines.
    """
    pictures = _scaled(images)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    gap = max(8, width // 24)
    font = font_for([*across, *down, title], max(13, round(width / 15)))
    side = 0 if not any(down) else max(round(font.getlength(text)) for text in down) + 2 * gap
    full = side + gap + len(across) * (width + gap)
    heading = wrapped(title, font, full - 2 * gap, 2)
    line = line_height(font)
    heads = [wrapped(label, font, width, _LINES) for label in across]
    top = gap + (len(heading) + max(map(len, heads))) * line + gap
    sheet = Image.new("RGB", (full, top + len(down) * (height + gap)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for n, text in enumerate(heading):
        draw.text((full / 2, gap + n * line), text, fill=_INK, font=font, anchor="ma")
    for column, head in enumerate(heads):
        center = side + gap + column * (width + gap) + width / 2
        for n, text in enumerate(head):
            place = (center, top - gap // 2 - (len(head) - n) * line)
            draw.text(place, text, fill=_INK, font=font, anchor="ma")
    for row, label in enumerate(down):
        draw.text((gap, top + row * (height + gap) + height / 2), label, fill=_INK, font=font, anchor="lm")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, len(across))
        left, upper = side + gap + column * (width + gap), top + row * (height + gap)
        sheet.paste(picture, (left + (width - picture.width) // 2, upper + (height - picture.height) // 2))
    return sheet


def _scaled(images: Sequence[Image.Image]) -> list[Image.Image]:
    """All pictures enlarged or reduced by one factor, so that they still compare."""
    largest = max(max(image.size) for image in images)
    factor = _MOST / largest if largest > _MOST else math.ceil(_LEAST / largest)
    if factor == 1:
        return [image.convert("RGB") for image in images]
    return [
        image.convert("RGB").resize(
            (max(1, round(image.width * factor)), max(1, round(image.height * factor))),
            Image.Resampling.LANCZOS,
        )
        for image in images
    ]
