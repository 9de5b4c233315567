"""Varied captions to train on, and canonical prompts."""

from __future__ import annotations

import numpy as np

from storybook.world import Spec

SCENE_PHRASES: dict[str, tuple[str, ...]] = {
    "snow": ("on snow", "in the snow"),
    "beach": ("on a beach", "at the beach"),
    "meadow": ("in a meadow", "in the meadow"),
    "forest": ("in a forest", "in the woods"),
    "night": ("at night", "under the moon"),
    "desert": ("in a desert", "in the desert"),
}
"""How captions name each scene; prompts use the first phrase."""

_MEDIA = ("a photo of", "a picture of", "a drawing of", "an illustration of", "a painting of")


def article(words: str) -> str:
    """Puts "a" or "an" before words."""
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def phrase(
    noun: str,
    *,
    colour: str | None = None,
    hat: str | None = None,
    scene: str | None = None,
    pattern: str | None = None,
    second_colour: str | None = None,
    bell: bool = False,
) -> str:
    """Builds the canonical prompt from the given parts.

    Args:
        noun: What is shown: an animal, or a name such as "mycat cat".
        colour: Color of the coat.
        hat: Color of the hat.
        scene: One of :data:`SCENE_PHRASES`.
        pattern: "stripes" or "spots".
        second_colour: Color of the pattern.
        bell: Whether there is a bell.

    Returns:
        A prompt such as "a photo of a red cat wearing a blue hat on snow".
    """
    parts = [article(f"{colour} {noun}" if colour else noun)]
    extras = []
    if pattern:
        extras.append(f"{second_colour} {pattern}" if second_colour else pattern)
    if bell:
        extras.append("a bell")
    if extras:
        parts.append("with " + " and ".join(extras))
    if hat:
        parts.append(f"wearing {article(hat)} hat")
    if scene:
        parts.append(SCENE_PHRASES[scene][0])
    return "a photo of " + " ".join(parts)


def prompt(spec: Spec, *, colour: bool = True, scene: bool = True) -> str:
    """Returns the canonical prompt of a spec, which names everything in it.

    Args:
        spec: What the picture shows.
        colour: Whether to name the coat: its color and pattern.
        scene: Whether to name the scene.
    """
    return phrase(
        spec.animal,
        colour=spec.colour if colour else None,
        hat=spec.hat,
        scene=spec.scene if scene else None,
        pattern=spec.pattern if colour else None,
        second_colour=spec.second_colour if colour else None,
        bell=spec.bell,
    )


def caption(spec: Spec, rng: np.random.Generator) -> str:
    """Describes a spec in varied words, truthfully but not always completely.

    Leaving things out teaches the model to choose what a prompt does not
    name, so that "a cat" still has some color.
    """

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def choose(*options: str) -> str:
        return options[int(rng.integers(len(options)))]

    colour = None if chance(0.20) else spec.colour
    scene = None if chance(0.15) else choose(*SCENE_PHRASES[spec.scene])
    coat = None
    if spec.pattern and not chance(0.15):
        coat = f"{spec.second_colour} {spec.pattern}"
    bell = choose("a bell", "a golden bell") if spec.bell and not chance(0.15) else None
    hat = None
    if spec.hat:
        if not chance(0.10):
            hat = choose("wearing", "with", "in") + f" {article(spec.hat)} hat"
    elif chance(0.10):
        hat = "without a hat"

    extras = " and ".join(extra for extra in (coat, bell) if extra)
    with_extras = f"with {extras}" if extras else None
    style = int(rng.integers(10))
    if style == 0 and colour:
        opening = f"{choose(*_MEDIA)} {article(spec.animal)}"
        return ", ".join(part for part in (opening, colour, with_extras, hat, scene) if part)
    animal = f"{colour} {spec.animal}" if colour else spec.animal
    if style == 1:
        return ", ".join(part for part in (animal, extras, hat, scene) if part)
    if style in (2, 3) and scene:
        described = " ".join(part for part in (animal, with_extras, hat) if part)
        return f"{choose('the ' + described, article(described))} is standing {scene}"
    if style == 4 and scene:
        described = " ".join(part for part in (article(animal), with_extras, hat) if part)
        return f"{scene}, {described}"
    opening = f"{choose(*_MEDIA)} {article(animal)}" if style < 8 else article(animal)
    return " ".join(part for part in (opening, with_extras, hat, scene) if part)
