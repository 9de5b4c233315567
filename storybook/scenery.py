"""The six scenes: sky, ground and a few big props, all smooth shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from storybook.canvas import RGB, Limb, Oval, Paints, Pen, Poly, mix

_SKY_BANDS = 14


@dataclass(frozen=True)
class Stage:
    """What a scene is drawn with.

    Attributes:
        pen: Draws in the picture's units: x is 0 on the left, y is 1 at the bottom.
        paints: The picture's.
        rng: Source of all randomness.
        width: Of the picture.
        height: Of the picture; a low one shows less of the sky.
    """

    pen: Pen
    paints: Paints
    rng: np.random.Generator
    width: float = 1.0
    height: float = 1.0

    def paint(self, color: RGB) -> int:
        """Adds a paint, slightly varied so that no two scenes are the same."""
        dr, dg, db = self.rng.integers(-7, 8, 3).tolist()
        return self.paints.add((color[0] + dr, color[1] + dg, color[2] + db))

    def vary(self, low: float, high: float) -> float:
        """Draws a random number."""
        return low + (high - low) * self.rng.random()

    def across(self, low: float, high: float) -> float:
        """Draws an x position between these shares of the picture's width."""
        return self.vary(low, high) * self.width

    def chance(self, share: float) -> bool:
        """Is true with this probability."""
        return bool(self.rng.random() < share)

    def sky(self, top: RGB, bottom: RGB, horizon: float) -> None:
        """Fills the picture down to the horizon with a soft gradient."""
        self._bands(top, bottom, min(0.0, 1 - self.height), horizon)

    def sea(self, back: RGB, front: RGB, horizon: float) -> None:
        """Fills the picture below the horizon with a soft gradient."""
        self._bands(back, front, horizon, 1.0)

    def _bands(self, top: RGB, bottom: RGB, y0: float, y1: float) -> None:
        shift = self.rng.integers(-8, 9, 3).tolist()
        step = (y1 - y0) / _SKY_BANDS
        for i in range(_SKY_BANDS):
            r, g, b = mix(top, bottom, i / (_SKY_BANDS - 1))
            paint = self.paints.add((r + shift[0], g + shift[1], b + shift[2]))
            # Beyond the right edge, since the picture's sides are rounded to pixels.
            corners = (*self.pen.at(0, y0 + i * step), *self.pen.at(self.width + 1, 1))
            self.pen.draw.rectangle([round(corner) for corner in corners], fill=paint)

    def hill(self, x: float, y: float, rx: float, ry: float, color: RGB) -> None:
        """Draws a broad hill with its top at y; x and rx are shares of the picture's width."""
        self.pen.fill(Oval(x * self.width, y + ry, rx * self.width, ry), self.paint(color))


def _places(stage: Stage, count: int) -> list[float]:
    """Returns evenly spaced, jittered x positions; a wide picture has more of them."""
    count = max(1, round(count * stage.width))
    return [(i + stage.vary(0.15, 0.85)) / count * stage.width for i in range(count)]


def _fir(stage: Stage, x: float, y: float, size: float, color: RGB, cap: RGB | None) -> None:
    pen = stage.pen
    pen.fill(Limb(((x, y), (x, y - 0.2 * size)), 0.1 * size, 0.1 * size), stage.paint((96, 66, 48)))
    green = stage.paint(color)
    snow = stage.paint(cap) if cap else green
    for level in (0, 1, 2):
        half, foot = (0.30 - 0.07 * level) * size, y - (0.12 + 0.25 * level) * size
        top = foot - 0.36 * size
        pen.fill(Poly(((x - half, foot), (x, top), (x + half, foot))), green)
        if cap:
            edge = foot - 0.18 * size
            pen.fill(Poly(((x - half * 0.5, edge), (x, top), (x + half * 0.5, edge))), snow)


def _tree(stage: Stage, x: float, y: float, size: float, color: RGB) -> None:
    pen = stage.pen
    trunk = stage.paint((92, 64, 46))
    pen.fill(Limb(((x, y), (x, y - 0.6 * size)), 0.15 * size, 0.11 * size), trunk)
    leaf = stage.paint(color)
    for dx, dy, r in ((-0.17, 0.58, 0.23), (0.17, 0.60, 0.23), (0.0, 0.80, 0.25)):
        pen.fill(Oval(x + dx * size, y - dy * size, r * size, r * size), leaf)


def _snow(stage: Stage) -> None:
    horizon = stage.vary(0.50, 0.62)
    stage.sky((158, 190, 224), (214, 230, 243), horizon + 0.1)
    for x in _places(stage, int(stage.rng.integers(1, 4))):
        _fir(stage, x, horizon + 0.06, stage.vary(0.40, 0.62), (62, 116, 112), (240, 246, 252))
    stage.hill(stage.vary(0.1, 0.9), horizon, 1.1, 0.5, (232, 240, 249))
    stage.hill(stage.vary(0.2, 0.8), horizon + 0.10, 1.5, 0.7, (246, 249, 253))
    flake = stage.paints.add((253, 254, 255))
    for x in _places(stage, int(stage.rng.integers(4, 9))):
        r = stage.vary(0.014, 0.024)
        stage.pen.fill(Oval(x, stage.vary(0.03, horizon - 0.03), r, r), flake)


def _beach(stage: Stage) -> None:
    horizon = stage.vary(0.34, 0.44)
    shore = horizon + stage.vary(0.16, 0.22)
    stage.sky((112, 196, 240), (204, 236, 248), horizon)
    sun = (stage.across(0.1, 0.9), stage.vary(0.10, 0.20))
    stage.pen.fill(Oval(*sun, 0.125, 0.125), stage.paints.add((236, 238, 214)))
    stage.pen.fill(Oval(*sun, 0.09, 0.09), stage.paints.add((255, 240, 150)))
    stage.sea((20, 134, 178), (58, 182, 200), horizon)
    if stage.chance(0.5):
        x, y = stage.across(0.1, 0.9), horizon + 0.03
        white = stage.paint((250, 248, 244))
        stage.pen.fill(Poly(((x, y - 0.17), (x, y - 0.03), (x + 0.11, y - 0.03))), white)
        stage.pen.fill(Limb(((x - 0.05, y), (x + 0.09, y)), 0.04, 0.04), stage.paint((150, 80, 60)))
    x = stage.vary(0.2, 0.8)
    stage.hill(x, shore - 0.03, 1.4, 0.7, (240, 250, 250))
    stage.hill(x, shore, 1.4, 0.7, (240, 222, 172))
    stage.hill(stage.vary(0.1, 0.9), shore + 0.16, 1.4, 0.7, (246, 230, 184))
    if stage.chance(0.6):
        _shell(stage, stage.across(0.06, 0.94), stage.vary(0.9, 0.96))


def _shell(stage: Stage, x: float, y: float) -> None:
    paint = stage.paint((232, 148, 120))
    stage.pen.fill(Oval(x, y, 0.045, 0.035), paint)


def _meadow(stage: Stage) -> None:
    horizon = stage.vary(0.46, 0.58)
    stage.sky((128, 190, 244), (214, 234, 250), horizon + 0.1)
    cloud = stage.paint((250, 252, 254))
    for x in _places(stage, int(stage.rng.integers(1, 3))):
        y = stage.vary(0.08, 0.2)
        for dx, dy, r in ((-0.08, 0.01, 0.05), (0.0, -0.02, 0.07), (0.09, 0.01, 0.05)):
            stage.pen.fill(Oval(x + dx, y + dy, r * 1.2, r), cloud)
    stage.hill(stage.vary(0.0, 0.4), horizon - 0.03, 0.8, 0.4, (150, 205, 120))
    stage.hill(stage.vary(0.5, 1.0), horizon, 0.9, 0.4, (166, 216, 122))
    stage.hill(stage.vary(0.2, 0.8), horizon + 0.12, 1.4, 0.7, (182, 224, 128))
    petals = [(250, 250, 246), (244, 120, 140), (252, 206, 70), (176, 126, 220)]
    heart = stage.paint((250, 190, 60))
    for x in _places(stage, int(stage.rng.integers(4, 8))):
        y, size = stage.vary(horizon + 0.2, 0.95), stage.vary(0.8, 1.2)
        color = petals[int(stage.rng.integers(len(petals)))]
        stage.pen.fill(Limb(((x, y), (x, y + 0.05)), 0.018, 0.018), stage.paint((96, 164, 76)))
        stage.pen.fill(Oval(x, y, 0.032 * size, 0.030 * size), stage.paint(color))
        stage.pen.fill(Oval(x, y, 0.013, 0.013), heart)


def _forest(stage: Stage) -> None:
    horizon = stage.vary(0.56, 0.66)
    stage.sky((122, 158, 140), (176, 196, 152), horizon + 0.1)
    firs = stage.chance(0.5)
    for row, (count, color) in enumerate(((4, (74, 116, 96)), (3, (40, 84, 66)))):
        for x in _places(stage, count):
            size = stage.vary(0.55, 0.72) + 0.1 * row
            y = horizon + 0.05 + 0.03 * row
            if firs:
                _fir(stage, x, y, size, color, None)
            else:
                _tree(stage, x, y, size, color)
    stage.hill(stage.vary(0.2, 0.8), horizon, 1.6, 0.7, (104, 110, 66))
    stage.hill(stage.vary(0.1, 0.9), horizon + 0.14, 1.4, 0.7, (124, 122, 74))
    if stage.chance(0.5):
        x, y = stage.across(0.07, 0.93), stage.vary(0.86, 0.94)
        stage.pen.fill(Limb(((x, y), (x, y + 0.04)), 0.035, 0.04), stage.paint((238, 228, 208)))
        stage.pen.fill(Oval(x, y - 0.01, 0.05, 0.032), stage.paint((186, 58, 48)))


def _night(stage: Stage) -> None:
    horizon = stage.vary(0.56, 0.68)
    stage.sky((14, 16, 48), (44, 48, 100), horizon + 0.1)
    star = stage.paints.add((246, 242, 206))
    for x in _places(stage, int(stage.rng.integers(5, 10))):
        r = stage.vary(0.010, 0.017)
        stage.pen.fill(Oval(x, stage.vary(0.03, horizon - 0.1), r, r), star)
    x, y, r = stage.across(0.12, 0.88), stage.vary(0.12, 0.24), stage.vary(0.085, 0.115)
    stage.pen.fill(Oval(x, y, r * 1.35, r * 1.35), stage.paints.add((46, 48, 92)))
    stage.pen.fill(Oval(x, y, r, r), stage.paints.add((250, 240, 196)))
    if stage.chance(0.6):
        dark = stage.paints.add((46, 48, 92))
        stage.pen.fill(Oval(x + 0.45 * r, y - 0.15 * r, 0.85 * r, 0.85 * r), dark)
    stage.hill(stage.vary(0.2, 0.8), horizon, 1.3, 0.5, (34, 50, 78))
    stage.hill(stage.vary(0.1, 0.9), horizon + 0.10, 1.5, 0.7, (44, 62, 84))


def _desert(stage: Stage) -> None:
    horizon = stage.vary(0.48, 0.6)
    stage.sky((250, 196, 130), (254, 232, 186), horizon + 0.1)
    if stage.chance(0.5):
        x, y = stage.across(0.1, 0.9), stage.vary(0.12, 0.25)
        stage.pen.fill(Oval(x, y, 0.09, 0.09), stage.paints.add((255, 248, 216)))
    stage.hill(stage.vary(0.0, 0.4), horizon - 0.02, 0.7, 0.4, (206, 138, 92))
    stage.hill(stage.vary(0.6, 1.0), horizon + 0.02, 0.8, 0.4, (216, 150, 100))
    for x in _places(stage, int(stage.rng.integers(1, 3))):
        _cactus(stage, x, horizon + stage.vary(0.10, 0.16), stage.vary(0.30, 0.44))
    stage.hill(stage.vary(0.1, 0.9), horizon + 0.14, 1.4, 0.7, (226, 166, 114))


def _cactus(stage: Stage, x: float, y: float, size: float) -> None:
    paint, side = stage.paint((88, 124, 88)), 1 if stage.chance(0.5) else -1
    w = 0.17 * size
    arms = (
        ((x, y), (x, y - size)),
        ((x, y - 0.40 * size), (x + side * 0.27 * size, y - 0.44 * size)),
        ((x + side * 0.27 * size, y - 0.44 * size), (x + side * 0.28 * size, y - 0.72 * size)),
        ((x, y - 0.55 * size), (x - side * 0.24 * size, y - 0.58 * size)),
        ((x - side * 0.24 * size, y - 0.58 * size), (x - side * 0.24 * size, y - 0.80 * size)),
    )
    for arm in arms:
        stage.pen.fill(Limb(arm, w, w * 0.9), paint)


SCENERY: dict[str, Callable[[Stage], None]] = {
    "snow": _snow,
    "beach": _beach,
    "meadow": _meadow,
    "forest": _forest,
    "night": _night,
    "desert": _desert,
}
