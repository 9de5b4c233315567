"""The six animals, drawn with a pen whose space is the animal's.

All face right. Feet are at y = 1, the top is near y = 0. Every function
returns where a hat and a bell go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from storybook.canvas import Limb, Oval, Pen, Point, Poly, Shape


@dataclass(frozen=True)
class Coat:
    """The numbers of the paints an animal is painted with.

    The face has the color of the fur but its own number, since patterns
    are painted on the fur only and must not cover the eyes.
    """

    fur: int
    face: int
    far: int
    light: int
    line: int
    dark: int
    white: int
    rose: int
    horn: int


@dataclass(frozen=True)
class Pose:
    """The animal's pose; numbers are between -1 and 1."""

    stance: float
    tail: float
    tilt: float
    nod: float
    ear: float
    girth: float
    hat: bool


@dataclass(frozen=True)
class Anchors:
    """Where things attach: the top of the head, the middle of the neck, and the head's center."""

    hat: Point
    neck: Point
    head: Point


def _eyes(pen: Pen, coat: Coat, *places: Point, size: float = 0.042) -> None:
    for x, y in places:
        pen.fill(Oval(x, y, size * 1.9, size * 2.1), coat.face)
    for x, y in places:
        pen.fill(Oval(x, y, size, size * 1.2), coat.dark)
        pen.fill(Oval(x + 0.013, y - 0.017, size * 0.36, size * 0.36), coat.white)


def _legs(pen: Pen, coat: Coat, xs: tuple[float, ...], top: float, width: float, s: float) -> None:
    """Draws the legs on the far side, in darker fur."""
    foot = 1 - width / 2
    shapes = [Limb(((x, top), (x + 0.05 * s, foot)), width, width) for x in xs]
    pen.group(shapes, coat.far, coat.line)


def draw_cat(pen: Pen, coat: Coat, pose: Pose) -> Anchors:
    """Draws a cat: pointed ears and a long raised tail."""
    s, t, g = pose.stance, pose.tail, pose.girth * 0.02
    _legs(pen, coat, (0.29, 0.62), 0.70, 0.095, -s)
    tail = ((0.17, 0.60), (0.03, 0.55), (-0.05, 0.42), (-0.03 + 0.04 * t, 0.27))
    pen.group([Limb((*tail, (0.05 + 0.10 * t, 0.20 - 0.03 * t)), 0.085, 0.075)], coat.fur, coat.line)
    body: list[Shape] = [
        Oval(0.40, 0.66, 0.30, 0.17 + g),
        Limb(((0.19, 0.70), (0.18 + 0.05 * s, 0.95)), 0.14, 0.10),
        Limb(((0.57, 0.68), (0.54 + 0.05 * s, 0.95)), 0.14, 0.10),
    ]
    pen.group(body, coat.fur, coat.line)
    pen.fill(Oval(0.39, 0.77 + g, 0.15, 0.045), coat.light)
    dy = 0.03 * pose.nod
    head = (0.70, 0.39 + dy)
    pen = pen.tilted(0.13 * pose.tilt, head)
    # A hat pushes the ears apart, or it would hide them.
    e, y = 0.03 * pose.ear + (0.05 if pose.hat else 0.0), head[1]
    ears = [
        Poly(((0.48, y - 0.05), (0.49 - e, y - 0.30), (0.67, y - 0.17)), 0.02),
        Poly(((0.76, y - 0.17), (0.92 + e, y - 0.30), (0.94, y - 0.05)), 0.02),
    ]
    pen.group([*ears, Oval(0.71, y, 0.255, 0.205)], coat.fur, coat.line)
    pen.fill(Poly(((0.53, y - 0.13), (0.53 - e, y - 0.24), (0.61, y - 0.17))), coat.rose)
    pen.fill(Poly(((0.82, y - 0.17), (0.89 + e, y - 0.24), (0.90, y - 0.13))), coat.rose)
    pen.fill(Oval(0.77, y + 0.10, 0.12, 0.08), coat.light)
    _eyes(pen, coat, (0.65, y - 0.01), (0.86, y - 0.01))
    pen.fill(Oval(0.775, y + 0.06, 0.03, 0.022), coat.dark)
    pen.group(
        [
            Limb(((0.70, y + 0.11), (0.52, y + 0.10)), 0.014, 0.01),
            Limb(((0.86, y + 0.11), (1.02, y + 0.09)), 0.014, 0.01),
        ],
        coat.line,
    )
    return Anchors((0.715, y - 0.17), (0.66, y + 0.225), head)


def draw_dog(pen: Pen, coat: Coat, pose: Pose) -> Anchors:
    """Draws a dog: hanging ears, a long snout, a wagging tail."""
    s, t, g = pose.stance, pose.tail, pose.girth * 0.02
    _legs(pen, coat, (0.24, 0.60), 0.68, 0.10, -s)
    pen.group(
        [Limb(((0.15, 0.56), (0.04, 0.44), (-0.02 + 0.08 * t, 0.27)), 0.10, 0.05)],
        coat.fur,
        coat.line,
    )
    body: list[Shape] = [
        Oval(0.36, 0.63, 0.27, 0.15 + g),
        Oval(0.53, 0.59, 0.15, 0.18),
        Limb(((0.15, 0.66), (0.14 + 0.05 * s, 0.945)), 0.15, 0.11),
        Limb(((0.54, 0.66), (0.53 + 0.05 * s, 0.945)), 0.15, 0.11),
        Limb(((0.54, 0.55), (0.64, 0.38)), 0.26, 0.22),
    ]
    pen.group(body, coat.fur, coat.line)
    pen.fill(Oval(0.36, 0.73 + g, 0.13, 0.04), coat.light)
    head = (0.68, 0.30 + 0.03 * pose.nod)
    y = head[1]
    pen = pen.tilted(0.15 * pose.tilt, head)
    pen.group([Oval(0.90, y + 0.19, 0.045, 0.07)], coat.rose, coat.line)
    pen.group([Oval(0.68, y, 0.215, 0.20), Oval(0.89, y + 0.09, 0.17, 0.10)], coat.fur, coat.line)
    pen.fill(Oval(0.94, y + 0.12, 0.11, 0.065), coat.light)
    pen.fill(Oval(1.03, y + 0.05, 0.055, 0.045), coat.dark)
    _eyes(pen, coat, (0.735, y - 0.04), (0.855, y - 0.05))
    e = 0.12 * pose.ear
    pen.group([Oval(0.52 - 0.1 * e, y + 0.07, 0.095, 0.19, 0.25 + e)], coat.far, coat.line)
    return Anchors((0.69, y - 0.165), (0.645, y + 0.285), head)


def draw_rabbit(pen: Pen, coat: Coat, pose: Pose) -> Anchors:
    """Draws a rabbit: two long upright ears and a ball of a tail."""
    s, t, g = pose.stance, pose.tail, pose.girth * 0.02
    pen.group([Oval(0.10, 0.79 + 0.03 * t, 0.095, 0.09)], coat.white, coat.line)
    _legs(pen, coat, (0.67,), 0.74, 0.09, -s)
    body: list[Shape] = [
        Oval(0.39, 0.75, 0.26 + g, 0.22),
        Limb(((0.54, 0.70), (0.60, 0.50)), 0.30, 0.26),
        Limb(((0.57, 0.76), (0.60 + 0.03 * s, 0.955)), 0.12, 0.09),
    ]
    pen.group(body, coat.fur, coat.line)
    pen.group([Oval(0.31, 0.82, 0.16, 0.15), Oval(0.38, 0.945, 0.18, 0.055)], coat.fur, coat.line)
    pen.fill(Oval(0.31, 0.81, 0.17, 0.14), coat.fur)
    head = (0.66, 0.46 + 0.02 * pose.nod)
    y, e = head[1], 0.14 * pose.ear
    pen = pen.tilted(0.13 * pose.tilt, head)
    ears = (
        Oval(0.555 - 0.12 * e, y - 0.27, 0.075, 0.205, -0.24 - e),
        Oval(0.745 + 0.06 * e, y - 0.27, 0.075, 0.205, 0.14 + e * 0.6),
    )
    if pose.hat:  # Ears make the rabbit: draw them beside the hat, not behind it.
        ears = (
            Oval(0.41, y - 0.21, 0.075, 0.205, -0.80 - e),
            Oval(0.92, y - 0.21, 0.075, 0.205, 0.80 + e),
        )
    for ear in ears:
        pen.group([ear], coat.fur, coat.line)
        pen.fill(Oval(ear.x, ear.y - 0.01, 0.037, 0.14, ear.angle), coat.rose)
    pen.group([Oval(0.665, y, 0.215, 0.185)], coat.fur, coat.line)
    pen.fill(Oval(0.76, y + 0.08, 0.11, 0.08), coat.light)
    _eyes(pen, coat, (0.635, y - 0.03), (0.82, y - 0.03))
    pen.fill(Oval(0.765, y + 0.045, 0.032, 0.024), coat.rose)
    pen.fill(Limb(((0.765, y + 0.065), (0.765, y + 0.115)), 0.016, 0.016), coat.line)
    return Anchors((0.655, y - 0.13), (0.64, y + 0.215), head)


def draw_bear(pen: Pen, coat: Coat, pose: Pose) -> Anchors:
    """Draws a bear: upright and burly, with small round ears."""
    s, t, g = pose.stance, pose.tail, pose.girth * 0.02
    pen.group([Limb(((0.30, 0.58), (0.15, 0.70 - 0.07 * t)), 0.15, 0.14)], coat.far, coat.line)
    legs = [
        Limb(((0.36, 0.82), (0.34 - 0.02 * s, 0.91)), 0.20, 0.18),
        Limb(((0.64, 0.82), (0.68 + 0.02 * s, 0.91)), 0.20, 0.18),
    ]
    pen.group([Oval(0.50, 0.70, 0.27 + g, 0.235), *legs], coat.fur, coat.line)
    pen.fill(Oval(0.53, 0.72, 0.16 + g, 0.15), coat.light)
    pen.group([Limb(((0.71, 0.59), (0.84, 0.69 + 0.08 * t)), 0.15, 0.14)], coat.fur, coat.line)
    head = (0.53, 0.30 + 0.02 * pose.nod)
    y, e = head[1], 0.015 * pose.ear
    pen = pen.tilted(0.12 * pose.tilt, head)
    ears = [Oval(0.31 - e, y - 0.16, 0.095, 0.095), Oval(0.75 + e, y - 0.16, 0.095, 0.095)]
    pen.group([*ears, Oval(0.53, y, 0.275, 0.225)], coat.fur, coat.line)
    for ear in ears:
        pen.fill(Oval(ear.x, ear.y, 0.05, 0.05), coat.rose)
    pen.fill(Oval(0.53, y, 0.265, 0.215), coat.fur)
    pen.fill(Oval(0.60, y + 0.08, 0.14, 0.10), coat.light)
    _eyes(pen, coat, (0.46, y - 0.05), (0.71, y - 0.05))
    pen.fill(Oval(0.61, y + 0.035, 0.06, 0.042), coat.dark)
    pen.fill(Limb(((0.61, y + 0.06), (0.61, y + 0.12)), 0.018, 0.018), coat.line)
    return Anchors((0.53, y - 0.185), (0.54, y + 0.255), head)


def draw_bird(pen: Pen, coat: Coat, pose: Pose) -> Anchors:
    """Draws a bird: a round body on thin legs, beak, wing and tail feathers."""
    s, t, g = pose.stance, pose.tail, pose.girth * 0.02
    for x, sway in ((0.38, -0.03 * s), (0.55, 0.03 * s)):
        foot = (x + sway, 0.97)
        pen.group(
            [Limb(((x, 0.75), foot, (foot[0] + 0.11, 0.975)), 0.05, 0.04)],
            coat.horn,
            coat.line,
        )
    dy = 0.06 * t
    tail = ((0.26, 0.48), (-0.09, 0.36 + dy), (-0.12, 0.46 + dy), (-0.06, 0.55 + dy), (0.24, 0.68))
    pen.group([Poly(tail, 0.015)], coat.far, coat.line)
    head = (0.68, 0.30 + 0.03 * pose.nod)
    y = head[1]
    turned = pen.tilted(0.15 * pose.tilt, head)
    crest = Limb(((0.57, y - 0.12), (0.52 + 0.03 * pose.ear, y - 0.25)), 0.11, 0.05)
    turned.group([Poly(((0.84, y - 0.07), (1.09, y + 0.04), (0.84, y + 0.12)), 0.015)], coat.horn, coat.line)
    pen.group(
        [Oval(0.45, 0.58, 0.315, 0.255 + g, -0.25), Oval(0.68, y, 0.205, 0.20), crest],
        coat.fur,
        coat.line,
    )
    pen.fill(Oval(0.60, 0.64, 0.13, 0.15, -0.3), coat.light)
    wing = ((0.48, 0.46), (0.52, 0.60), (0.36, 0.70), (0.10, 0.64 - 0.03 * t), (0.30, 0.48))
    pen.group([Poly(wing, 0.04)], coat.far, coat.line)
    turned.fill(Limb(((0.86, y + 0.035), (1.02, y + 0.045)), 0.015, 0.01), coat.line)
    _eyes(turned, coat, (0.76, y - 0.04), size=0.05)
    return Anchors((0.685, y - 0.165), (0.665, y + 0.215), head)


def draw_elephant(pen: Pen, coat: Coat, pose: Pose) -> Anchors:
    """Draws an elephant: trunk, big flat ear, and legs like pillars."""
    s, t, g = pose.stance, pose.tail, pose.girth * 0.02
    pen.group(
        [Limb(((0.08, 0.45), (-0.02, 0.54), (-0.04 + 0.05 * t, 0.66)), 0.05, 0.05)],
        coat.far,
        coat.line,
    )
    _legs(pen, coat, (0.32, 0.66), 0.68, 0.16, -0.5 * s)
    body: list[Shape] = [
        Oval(0.40, 0.50, 0.35, 0.26 + g),
        Limb(((0.18, 0.62), (0.17 + 0.03 * s, 0.91)), 0.19, 0.18),
        Limb(((0.55, 0.62), (0.54 + 0.03 * s, 0.91)), 0.19, 0.18),
    ]
    pen.group(body, coat.fur, coat.line)
    pen.fill(Oval(0.37, 0.69 + g, 0.13, 0.045), coat.light)
    head = (0.79, 0.36 + 0.02 * pose.nod)
    y, u = head[1], pose.ear
    pen = pen.tilted(0.10 * pose.tilt, head)
    trunk = ((0.90, y + 0.05), (0.99, y + 0.20), (1.00, y + 0.36), (1.08, y + 0.44))
    tip = (1.16, y + 0.42 - 0.05 * t)
    pen.group([Limb(((0.86, y + 0.15), (0.92, y + 0.26)), 0.07, 0.04)], coat.white, coat.line)
    pen.group([Limb((*trunk, tip), 0.20, 0.09), Oval(0.79, y, 0.205, 0.215)], coat.fur, coat.line)
    _eyes(pen, coat, (0.875, y - 0.03), size=0.045)
    ear = Oval(0.64 - 0.01 * u, y + 0.02, 0.155, 0.22, 0.08 + 0.10 * u)
    pen.group([ear], coat.far, coat.line)
    pen.fill(Oval(ear.x, ear.y + 0.01, 0.09, 0.145, ear.angle), coat.rose)
    return Anchors((0.80, y - 0.17), (0.755, y + 0.265), head)


DRAWERS: dict[str, Callable[[Pen, Coat, Pose], Anchors]] = {
    "cat": draw_cat,
    "dog": draw_dog,
    "rabbit": draw_rabbit,
    "bear": draw_bear,
    "bird": draw_bird,
    "elephant": draw_elephant,
}
