"""Painting by number: shapes, a pen that places them, and a box of paints.

Pictures are painted on a single-channel canvas whose pixels are paint numbers.
That is several times faster than painting colors, and masks come for free:
the animal is every pixel with one of the animal's paint numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]


class Oval(NamedTuple):
    """An ellipse around (x, y), rotated by ``angle`` radians."""

    x: float
    y: float
    rx: float
    ry: float
    angle: float = 0.0


class Limb(NamedTuple):
    """A thick round line through points, from width ``w0`` to ``w1``."""

    points: Sequence[Point]
    w0: float
    w1: float


class Poly(NamedTuple):
    """A filled polygon whose corners are rounded by ``radius``."""

    points: Sequence[Point]
    radius: float = 0.0


Shape = Oval | Limb | Poly


def shade(color: RGB, factor: float) -> RGB:
    """Darkens a color (factor below 1) or moves it toward white (above 1)."""
    if factor <= 1:
        r, g, b = (round(c * factor) for c in color)
    else:
        r, g, b = (round(c + (255 - c) * (factor - 1)) for c in color)
    return r, g, b


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Returns the color ``share`` of the way from the first to the second."""
    r, g, b = (round(p + (q - p) * share) for p, q in zip(first, second, strict=True))
    return r, g, b


class Paints:
    """A palette that assigns numbers to colors."""

    def __init__(self) -> None:
        """Starts empty."""
        self._bytes: list[int] = []

    def __len__(self) -> int:
        """Returns how many paints there are; the next one gets this number."""
        return len(self._bytes) // 3

    def add(self, color: RGB) -> int:
        """Adds a paint and returns its number."""
        if len(self) == 256:
            raise ValueError("a picture has at most 256 paints")
        self._bytes.extend(max(0, min(255, c)) for c in color)
        return len(self) - 1

    def render(self, canvas: Image.Image) -> Image.Image:
        """Turns a canvas of paint numbers into an RGB picture."""
        colored = Image.frombytes("P", canvas.size, canvas.tobytes())
        colored.putpalette(self._bytes)
        return colored.convert("RGB")


@dataclass(frozen=True)
class Pen:
    """Places shapes on the canvas.

    Shapes are given in the pen's own space: (0.5, 1) is at (x, y) of
    the picture (whose area is 1), and one unit is ``scale`` of the picture.

    Attributes:
        draw: What draws on the canvas.
        pixels: What 1 is on the canvas, in pixels.
        x: Where in the picture the foot of the pen's space is, from the left.
        y: The same, from the top.
        scale: Size of the pen's unit square, as a share of the picture.
        flip: Whether left and right are swapped.
        tilt: Angle in radians by which everything is rotated around the pivot.
        pivot: The center of that rotation, in the pen's space.
        outline: Width of outlines, as a share of the picture.
    """

    draw: ImageDraw.ImageDraw
    pixels: int
    x: float = 0.5
    y: float = 1.0
    scale: float = 1.0
    flip: bool = False
    tilt: float = 0.0
    pivot: Point = (0.5, 0.5)
    outline: float = 1 / 64

    def tilted(self, tilt: float, pivot: Point) -> Pen:
        """Returns a pen that rotates what it draws around a pivot."""
        return replace(self, tilt=tilt, pivot=pivot)

    def at(self, x: float, y: float) -> Point:
        """Returns the canvas position of a point of the pen's space."""
        if self.tilt:
            dx, dy = x - self.pivot[0], y - self.pivot[1]
            cos, sin = math.cos(self.tilt), math.sin(self.tilt)
            x, y = self.pivot[0] + dx * cos - dy * sin, self.pivot[1] + dx * sin + dy * cos
        side = (0.5 - x) if self.flip else (x - 0.5)
        return (
            (self.x + side * self.scale) * self.pixels,
            (self.y + (y - 1) * self.scale) * self.pixels,
        )

    def group(self, shapes: Sequence[Shape], paint: int, line: int | None = None) -> None:
        """Fills shapes with a paint, with an outline around their union."""
        if line is not None:
            for shape in shapes:
                self.fill(shape, line, self.outline * self.pixels)
        for shape in shapes:
            self.fill(shape, paint)

    def fill(self, shape: Shape, paint: int, grow: float = 0.0) -> None:
        """Fills one shape, grown on all sides by that many canvas pixels."""
        if isinstance(shape, Oval):
            self._oval(shape, paint, grow)
        elif isinstance(shape, Limb):
            self._limb(shape, paint, grow)
        else:
            points = [self.at(*point) for point in shape.points]
            self.draw.polygon(points, fill=paint)
            radius = shape.radius * self.scale * self.pixels + grow
            if radius >= 0.5:
                self._stroke([*points, points[0]], [radius] * (len(points) + 1), paint)

    def _oval(self, oval: Oval, paint: int, grow: float) -> None:
        unit = self.scale * self.pixels
        x, y = self.at(oval.x, oval.y)
        rx, ry = oval.rx * unit + grow, oval.ry * unit + grow
        angle = oval.angle + self.tilt
        # A slight rotation of a nearly round shape is invisible.
        if abs(angle * (rx - ry)) < 0.5:
            self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=paint)
            return
        angle = -angle if self.flip else angle
        cos, sin = math.cos(angle), math.sin(angle)
        along, across = (rx * cos, rx * sin), (-ry * sin, ry * cos)
        points = [(x + c * along[0] + s * across[0], y + c * along[1] + s * across[1]) for c, s in _CIRCLE]
        self.draw.polygon(points, fill=paint)

    def _limb(self, limb: Limb, paint: int, grow: float) -> None:
        points = [self.at(*point) for point in limb.points]
        half, steps = self.scale * self.pixels / 2, max(1, len(points) - 1)
        radii = [(limb.w0 + (limb.w1 - limb.w0) * i / steps) * half + grow for i in range(len(points))]
        self._stroke(points, radii, paint)

    def _stroke(self, points: Sequence[Point], radii: Sequence[float], paint: int) -> None:
        for (x, y), r in zip(points, radii, strict=True):
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=paint)
        for i in range(len(points) - 1):
            (x0, y0), (x1, y1), r0, r1 = points[i], points[i + 1], radii[i], radii[i + 1]
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            nx, ny = (y0 - y1) / length, (x1 - x0) / length
            self.draw.polygon(
                (
                    (x0 + nx * r0, y0 + ny * r0),
                    (x1 + nx * r1, y1 + ny * r1),
                    (x1 - nx * r1, y1 - ny * r1),
                    (x0 - nx * r0, y0 - ny * r0),
                ),
                fill=paint,
            )


_CIRCLE = [(math.cos(2 * math.pi * i / 28), math.sin(2 * math.pi * i / 28)) for i in range(28)]
