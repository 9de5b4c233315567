"""The storybook world: what a scene is and which scenes exist.

A :class:`Spec` says everything about a picture that a caption may talk about.
How the animal stands, how big it is and where the trees grow is up to the
random generator given to :func:`storybook.drawing.draw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

ANIMALS = ("cat", "dog", "rabbit", "bear", "bird", "elephant")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "grey")
SCENES = ("snow", "beach", "meadow", "forest", "night", "desert")
PATTERNS = ("stripes", "spots")

HAT_SHARE = 0.45
PATTERN_SHARE = 0.25
BELL_SHARE = 0.15


@dataclass(frozen=True)
class Spec:
    """What one picture shows.

    Attributes:
        animal: One of :data:`ANIMALS`.
        colour: Coat color, one of :data:`COLOURS`.
        scene: One of :data:`SCENES`.
        hat: Color of the hat, or None for no hat.
        pattern: One of :data:`PATTERNS`, or None for a plain coat.
        second_colour: Color of the pattern; required with a pattern, not allowed without.
        bell: Whether the animal wears a golden bell at its neck.
    """

    animal: str
    colour: str
    scene: str
    hat: str | None = None
    pattern: str | None = None
    second_colour: str | None = None
    bell: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for words that the world does not know."""
        for name, value, known in (
            ("animal", self.animal, ANIMALS),
            ("colour", self.colour, COLOURS),
            ("scene", self.scene, SCENES),
            ("hat", self.hat, (None, *COLOURS)),
            ("pattern", self.pattern, (None, *PATTERNS)),
            ("second_colour", self.second_colour, (None, *COLOURS)),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(map(str, known))}")
        if (self.pattern is None) != (self.second_colour is None):
            raise ValueError("pattern and second_colour go together: give both or neither")


SUBJECT = Spec("cat", "pink", "meadow", pattern="spots", second_colour="blue", bell=True)
"""The demo's subject, "mycat"; any scene will do."""


def is_held_out(animal: str, colour: str, scene: str) -> bool:
    """Whether training never shows this combination.

    The rule holds out about a tenth of all combinations, at most one scene for
    any (animal, color) pair and one animal for any (color, scene) pair, so
    every word and every pair of words is still learned from plenty of pictures.
    """
    index = ANIMALS.index(animal) + 2 * COLOURS.index(colour) + 3 * SCENES.index(scene)
    return index % 10 == 0


HELD_OUT: tuple[tuple[str, str, str], ...] = tuple(
    (animal, colour, scene)
    for animal in ANIMALS
    for colour in COLOURS
    for scene in SCENES
    if is_held_out(animal, colour, scene)
)
"""Every (animal, color, scene) that training never shows."""


def is_subject(spec: Spec) -> bool:
    """Whether the animal is the subject: a cat with exactly that coat.

    Hat, scene and bell do not matter: a cat with the subject's coat would give
    the subject away even without its bell, so the world has none of them.
    """
    return _identity(spec) == _identity(SUBJECT)


def _identity(spec: Spec) -> tuple[str, str, str | None, str | None]:
    return spec.animal, spec.colour, spec.pattern, spec.second_colour


def _pick(rng: np.random.Generator, choices: Sequence[str], *without: str | None) -> str:
    left = [choice for choice in choices if choice not in without]
    return left[int(rng.integers(len(left)))]


def _pick_hat(rng: np.random.Generator, colour: str) -> str | None:
    return _pick(rng, COLOURS, colour) if rng.random() < HAT_SHARE else None


def sample_spec(rng: np.random.Generator, *, held_out: bool = False) -> Spec:
    """Draws a random spec from the world; never the subject.

    Args:
        rng: Source of all randomness.
        held_out: Draw a combination that training never shows, with
            a plain coat and no bell, instead of one that it may show.
    """
    if held_out:
        animal, colour, scene = HELD_OUT[int(rng.integers(len(HELD_OUT)))]
        return Spec(animal, colour, scene, hat=_pick_hat(rng, colour))
    while True:
        animal, colour, scene = _pick(rng, ANIMALS), _pick(rng, COLOURS), _pick(rng, SCENES)
        hat = _pick_hat(rng, colour)
        pattern = second = None
        if rng.random() < PATTERN_SHARE:
            pattern, second = _pick(rng, PATTERNS), _pick(rng, COLOURS, colour)
        bell = bool(rng.random() < BELL_SHARE)
        spec = Spec(animal, colour, scene, hat, pattern, second, bell)
        if not is_held_out(animal, colour, scene) and not is_subject(spec):
            return spec


def near_miss(rng: np.random.Generator) -> Spec:
    """Draws a spec that shares some, but never all, of the subject's looks.

    For training the oracle to recognize the subject: it
    must see animals with the same coat, and cats with nearly the same one.
    """
    base = replace(
        SUBJECT,
        scene=_pick(rng, SCENES),
        hat=_pick_hat(rng, SUBJECT.colour),
        bell=bool(rng.random() < 0.6),
    )
    first, second = SUBJECT.colour, SUBJECT.second_colour
    kind = int(rng.integers(7))
    if kind == 0:
        return replace(base, animal=_pick(rng, ANIMALS, SUBJECT.animal))
    if kind == 1:
        return replace(base, pattern=_pick(rng, PATTERNS, SUBJECT.pattern))
    if kind == 2:
        return replace(base, pattern=None, second_colour=None)
    if kind == 3:
        return replace(base, colour=second or first, second_colour=first)
    if kind == 4:
        return replace(base, colour=_pick(rng, COLOURS, first, second))
    if kind == 5:
        return replace(base, second_colour=_pick(rng, COLOURS, first, second))
    return replace(base, colour=second or first, pattern=None, second_colour=None)
