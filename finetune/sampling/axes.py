"""X/Y plots: the same prompts with one or two settings that vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from finetune.errors import ConfigError

LORA, PROMPT = "lora.", "prompt"
"""Keys that are no settings: the weight of LoRAs, and words to be replaced in prompts."""

_FORM = 'Write --grid KEY=VALUE,VALUE…, e.g. --grid "guidance=3,5,7" --grid "lora.weight=0.4,0.7,1".'
Point = tuple[tuple[str, str], ...]
"""A value for the key of each axis."""


@dataclass(frozen=True)
class Axis:
    """What varies along one side of a plot.

    Attributes:
        key: A setting of `sampling`, `lora.weight` (of all LoRAs), `lora.NAME` (of one), or `prompt`: there
            the first value is replaced by the others.
        values: As they were given.
    """

    key: str
    values: tuple[str, ...]


def read_axes(texts: Sequence[str]) -> list[Axis]:
    """Reads one or two axes of the form "KEY=VALUE,VALUE"; the first is that from left to right.

    Raises:
        ConfigError: They do not have that form, or are too many.
    """
    axes = []
    for text in texts:
        key, _, values = text.partition("=")
        split = tuple(value.strip() for value in values.split(","))
        if not key.strip() or "" in split:
            raise ConfigError("This is not an axis of a plot.", where=f"--grid {text}", fix=_FORM)
        axes.append(Axis(key.strip().removeprefix("sampling."), split))
    if len(axes) > 2 or len({axis.key for axis in axes}) < len(axes):
        raise ConfigError(
            "A plot has two axes at most, of different settings.",
            where="--grid",
            fix="Give --grid twice at most.",
        )
    return axes


def points(axes: Sequence[Axis]) -> list[Point]:
    """All places of a plot, row by row from left to right."""
    rows = [[(axis.key, value) for value in axis.values] for axis in reversed(axes)]
    return [tuple(reversed(point)) for point in product(*rows)]


def replaced(prompt: str, axes: Sequence[Axis], point: Point) -> str:
    """A prompt at one place of a plot.

    Raises:
        ConfigError: The word to be replaced is not in it.
    """
    for axis in axes:
        if axis.key == PROMPT:
            if axis.values[0] not in prompt:
                raise ConfigError(
                    f'"{axis.values[0]}" is not in the prompt, so it cannot be replaced.',
                    where=f"--grid {axis.key}={','.join(axis.values)}",
                    fix="Begin with words of the prompt.",
                )
            prompt = prompt.replace(axis.values[0], dict(point)[PROMPT])
    return prompt
