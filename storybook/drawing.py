"""Draws a spec of the storybook world as a picture, with the animal's mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from storybook.animals import DRAWERS, Anchors, Coat, Pose
from storybook.canvas import RGB, Limb, Oval, Paints, Pen, Poly, mix, shade
from storybook.scenery import SCENERY, Stage
from storybook.world import SUBJECT, Spec

RGB_OF: dict[str, RGB] = {
    "red": (216, 38, 44),
    "orange": (246, 132, 24),
    "yellow": (252, 220, 50),
    "green": (44, 156, 68),
    "blue": (40, 100, 218),
    "purple": (136, 66, 186),
    "pink": (250, 150, 196),
    "grey": (142, 146, 154),
}
"""The color for each color word; pictures vary a little around it."""

_SUPERSAMPLING = 4
_GROUND_SHADE: dict[str, RGB] = {
    "snow": (196, 212, 232),
    "beach": (206, 184, 134),
    "meadow": (128, 180, 88),
    "forest": (82, 84, 50),
    "night": (24, 34, 56),
    "desert": (180, 122, 80),
}
# Left and right edge of each animal in its own space, where 1 is its height.
_REACH = {
    "cat": (-0.10, 1.02),
    "dog": (-0.07, 1.09),
    "rabbit": (0.00, 0.90),
    "bear": (0.07, 0.93),
    "bird": (-0.14, 1.10),
    "elephant": (-0.07, 1.22),
}
_SIZE_OF = {"elephant": 0.94, "bear": 1.04, "rabbit": 1.06}
_GOLD: RGB = (255, 204, 40)


def draw(spec: Spec, rng: np.random.Generator, size: int = 64, ratio: float = 1.0) -> Image.Image:
    """Draws a picture of the spec.

    In a wide picture the animal stands at the left or right end, in a tall one at the bottom; its share of
    the area is that in a square, if that fits.

    Args:
        spec: What the picture shows.
        rng: Source of everything else (pose, place, props).
        size: Side in pixels of a square with the picture's area; it does not change what is drawn.
        ratio: The picture's width divided by its height.
    """
    return draw_with_mask(spec, rng, size, ratio)[0]


def draw_with_mask(
    spec: Spec, rng: np.random.Generator, size: int = 64, ratio: float = 1.0
) -> tuple[Image.Image, Image.Image]:
    """As `draw`, and the mask ("L", 255 inside) of the animal and its hat."""
    paints, canvas, first = _paint(spec, rng, size, ratio)
    mask = canvas.point([0] * first + [255] * (256 - first))
    return paints.render(canvas).reduce(_SUPERSAMPLING), mask.reduce(_SUPERSAMPLING)


def draw_subject(
    count: int = 5, *, size: int = 256, seed: int = 5, ratios: Sequence[float] = (1.0,)
) -> list[tuple[Image.Image, Image.Image]]:
    """Draws pictures of the subject, each in a different scene and pose, with their masks.

    Args:
        count: How many pictures.
        size: Side in pixels of a square with their area.
        seed: Of the poses and places.
        ratios: Width divided by height, used in turn.
    """
    scenes = ("meadow", "beach", "snow", "forest", "desert", "night")
    return [
        draw_with_mask(
            replace(SUBJECT, scene=scenes[i % len(scenes)]),
            np.random.default_rng([seed, i]),
            size,
            ratios[i % len(ratios)],
        )
        for i in range(count)
    ]


def write_subject(
    folder: Path, *, size: int = 256, count: int = 5, seed: int = 5, ratios: Sequence[float] = (1.0,)
) -> list[Path]:
    """Writes the pictures of `draw_subject`; returns the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, (picture, _) in enumerate(draw_subject(count, size=size, seed=seed, ratios=ratios)):
        paths.append(folder / f"mycat-{i + 1}.png")
        picture.save(paths[-1], optimize=True)
    return paths


def _paint(spec: Spec, rng: np.random.Generator, size: int, ratio: float) -> tuple[Paints, Image.Image, int]:
    """Paints by number; also returns the first number used for the animal."""
    if size < 8:
        raise ValueError(f"a picture of {size} pixels is too small to draw: use at least 8")
    pixels = size * _SUPERSAMPLING
    width, height = math.sqrt(ratio), 1 / math.sqrt(ratio)
    canvas = Image.new("L", (round(size * width) * _SUPERSAMPLING, round(size * height) * _SUPERSAMPLING))
    paints, pencil = Paints(), ImageDraw.Draw(canvas)
    page = Pen(pencil, pixels, y=height)
    stage = Stage(page, paints, rng, width, height)
    SCENERY[spec.scene](stage)

    left, right = _REACH[spec.animal]
    above, below = (0.20 if spec.hat else 0.06), 0.05
    scale = stage.vary(0.54, 0.69) * _SIZE_OF.get(spec.animal, 1.0)
    scale = min(scale, height - above - below, (width - 0.02) / (right - left))  # all fit in a square
    flip = stage.chance(0.5)
    slack = max(0.01, (width - (right - left) * scale) / 2)
    middle = ((left + right) / 2 - 0.5) * scale
    x = width / 2 + (middle if flip else -middle)
    if ratio <= 1:
        x += stage.vary(-slack, slack)
    else:
        x += (slack - stage.vary(0, 0.08)) * (1 if stage.chance(0.5) else -1)
    y = stage.vary(max(0.84, 1 - height + scale + above), 1 - below)
    shadow = paints.add(_GROUND_SHADE[spec.scene])
    page.fill(Oval(x, y - 0.012, 0.46 * scale, 0.032), shadow)

    first = len(paints)
    pen = Pen(pencil, pixels, x, y + height - 1, scale, flip)
    coat = _mix_coat(stage, RGB_OF[spec.colour])
    stance, tail, tilt, nod, ear, girth = (stage.vary(-1, 1) for _ in range(6))
    pose = Pose(stance, tail, tilt, nod, ear, girth, hat=spec.hat is not None)
    anchors = DRAWERS[spec.animal](pen, coat, pose)
    if spec.pattern and spec.second_colour:
        second = _jitter(stage, RGB_OF[spec.second_colour])
        _paint_pattern(canvas, pen, coat, spec.pattern, stage, second)
    if spec.bell:
        _hang_bell(pen, paints, anchors)
    if spec.hat:
        _put_hat(pen, stage, anchors, pose, _jitter(stage, RGB_OF[spec.hat]))
    return paints, canvas, first


def _jitter(stage: Stage, color: RGB) -> RGB:
    """Returns a color a little lighter or darker, and a little off in hue."""
    light = stage.vary(-10, 10)
    r, g, b = (round(c + light + stage.vary(-6, 6)) for c in color)
    return r, g, b


def _mix_coat(stage: Stage, color: RGB) -> Coat:
    fur = _jitter(stage, color)
    add = stage.paints.add
    return Coat(
        fur=add(fur),
        face=add(fur),
        far=add(shade(fur, 0.80)),
        light=add(shade(fur, 1.45)),
        line=add(shade(fur, 0.38)),
        dark=add((30, 26, 34)),
        white=add((252, 252, 250)),
        rose=add(mix(shade(fur, 1.35), (244, 150, 150), 0.6)),
        horn=add((252, 184, 48)),
    )


def _paint_pattern(canvas: Image.Image, pen: Pen, coat: Coat, pattern: str, stage: Stage, color: RGB) -> None:
    """Paints stripes or spots on the fur, leaving face, belly and outlines."""
    near, far = stage.paints.add(color), stage.paints.add(shade(color, 0.80))
    layer = Image.new("L", canvas.size)
    marker = Pen(ImageDraw.Draw(layer), pen.pixels, pen.x, pen.y, pen.scale, pen.flip)
    # Sizes are relative to the picture, so that a small animal has fewer marks
    # instead of marks too small to see.
    unit = 1 / pen.scale
    if pattern == "stripes":
        step, width, lean = 0.108 * unit, 0.052 * unit, stage.vary(-0.12, 0.12)
        x = -0.25 + stage.vary(0, step)
        while x < 1.35:
            bow = ((x - lean, -0.05), (x + 0.04, 0.5), (x - lean, 1.0))
            marker.fill(Limb(bow, width, width), 255)
            x += step
    else:
        step, radius = 0.118 * unit, 0.037 * unit
        y, odd = stage.vary(-0.05, 0.05), 0.0
        while y < 1.0:
            x = -0.25 + odd * step / 2 + stage.vary(-0.01, 0.01)
            while x < 1.35:
                marker.fill(Oval(x + stage.vary(-0.012, 0.012), y, radius, radius), 255)
                x += step
            y, odd = y + step * 0.87, 1 - odd
    for fur, paint in ((coat.fur, near), (coat.far, far)):
        where = canvas.point([255 if number == fur else 0 for number in range(256)])
        canvas.paste(paint, mask=ImageChops.darker(where, layer))


def _hang_bell(pen: Pen, paints: Paints, anchors: Anchors) -> None:
    """Hangs a golden bell on a dark collar under the chin."""
    collar, gold = paints.add((88, 44, 40)), paints.add(_GOLD)
    line, glint = paints.add((84, 52, 8)), paints.add((255, 246, 190))
    x, y = anchors.neck
    unit = 1 / pen.scale
    half, drop = 0.075 * unit, 0.022 * unit
    ends = ((x - half, y - drop), (x, y), (x + half, y - drop))
    pen.fill(Limb(ends, 0.036 * unit, 0.036 * unit), collar)
    radius, y = 0.047 * unit, y + 0.030 * unit
    pen.group([Oval(x, y, radius, radius)], gold, line)
    slot = ((x, y + 0.30 * radius), (x, y + 0.75 * radius))
    pen.fill(Limb(slot, 0.02 * unit, 0.02 * unit), line)
    pen.fill(Oval(x - 0.35 * radius, y - 0.35 * radius, 0.3 * radius, 0.3 * radius), glint)


def _put_hat(pen: Pen, stage: Stage, anchors: Anchors, pose: Pose, color: RGB) -> None:
    """Puts a pointed or a tall hat on the head, tilted as the head is."""
    add = stage.paints.add
    cloth, line, band = add(color), add(shade(color, 0.35)), add(shade(color, 0.62))
    w = max(0.208, 0.33 * pen.scale) / pen.scale
    x, y = anchors.hat
    pen = pen.tilted(0.13 * pose.tilt + stage.vary(-0.08, 0.08), anchors.head)
    if stage.chance(0.5):
        cone = ((x - w / 2, y), (x - 0.03, y - 0.92 * w), (x + 0.03, y - 0.92 * w), (x + w / 2, y))
        pen.group([Poly(cone, 0.02), Oval(x, y, w / 2, 0.10 * w)], cloth, line)
        pen.group([Oval(x, y - 0.95 * w, 0.12 * w, 0.12 * w)], band, line)
    else:
        top, left, right = y - 0.70 * w, x - 0.37 * w, x + 0.37 * w
        crown = ((left, y), (left - 0.03 * w, top), (right + 0.03 * w, top), (right, y))
        brim = Limb(((x - 0.48 * w, y), (x + 0.48 * w, y)), 0.17 * w, 0.17 * w)
        pen.group([Poly(crown, 0.02), brim], cloth, line)
        low, high = y - 0.13 * w, y - 0.27 * w
        pen.fill(Poly(((left, low), (left, high), (right, high), (right, low))), band)
