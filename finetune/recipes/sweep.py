"""Which runs a sweep is made of: all combinations of some settings' values, or a random share of them."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config.base import plain_name
from finetune.errors import ConfigError
from finetune.recipes.faults import cut
from finetune.recipes.load import Setting, parse_set

MOST = 200
"""Maximum number of runs; more would make a list that no recipe's reader takes."""
_OPENING, _CLOSING, _QUOTES = "[{", "]}", "\"'"


@dataclass(frozen=True)
class Choice:
    """One value of a setting that varies.

    Attributes:
        setting: As `--set` gives it.
        text: The value as it was written.
    """

    setting: Setting
    text: str

    @property
    def key(self) -> str:
        """The setting's dotted key."""
        return self.setting.key


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        number: From 1, in the order of the sweep.
        choices: One of each setting that varies.
    """

    number: int
    choices: tuple[Choice, ...]

    @property
    def name(self) -> str:
        """The name of its folder, such as "2-lr-3e-4-rank-4"."""
        parts = [f"{choice.key.rpartition('.')[2]}-{choice.text}" for choice in self.choices]
        return re.sub("--+", "-", plain_name(f"{self.number}-{'-'.join(parts)}"))

    @property
    def words(self) -> str:
        """What is special about it, such as "optimizer.lr=3e-4, adapter.rank=4"."""
        return ", ".join(f"{choice.key}={choice.text}" for choice in self.choices)


def parse_choices(text: str) -> list[Choice]:
    """Reads `section.key=V1,V2`; a comma inside of brackets or quotes is part of a value.

    Args:
        text: What follows `--set`.

    Returns:
        One or more values of one setting, in this order.

    Raises:
        ConfigError: If it does not have this form, or a value is there twice.
    """
    key, equals, values = text.partition("=")
    found = [Choice(parse_set(f"{key}{equals}{value}"), value.strip()) for value in _split(values)]
    texts = [choice.text for choice in found]
    twice = [value for value in texts if texts.count(value) > 1]
    empty = len(texts) > 1 and "" in texts
    if twice or empty:
        raise ConfigError(
            "A value is missing." if empty else f"The value {cut(twice[0])} is given twice.",
            where=f"--set {cut(text)}",
            fix="Separate different values by one comma each; put text with commas in quotes.",
        )
    return found


def _split(values: str) -> Iterator[str]:
    """The text between commas that are outside of brackets and quotes."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(values):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES and not values[start:place].strip(" [{,"):
            quote = letter  # as in YAML, an apostrophe within a word is none
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth <= 0:
            yield values[start:place]
            start = place + 1
    yield values[start:]


def parted(changes: Iterable[str]) -> tuple[list[Setting], list[list[Choice]]]:
    """The settings of `--set` that are the same for all runs, and the values of those that vary.

    Raises:
        ConfigError: If one is given twice or malformed, or none varies.
    """
    read: dict[str, list[Choice]] = {}
    for change in changes:
        choices = parse_choices(change)
        key = choices[0].key
        if key in read:
            raise ConfigError(
                f"{key} is given twice.", where=f"--set {cut(change)}", fix="Give all its values at once."
            )
        if key == "output.dir":
            raise ConfigError(
                "Every run of a sweep has a folder of its own.",
                where=f"--set {cut(change)}",
                fix="Choose where they all are with --output-dir.",
            )
        read[key] = choices
    varied = [choices for choices in read.values() if len(choices) > 1]
    if not varied:
        raise ConfigError(
            "Nothing varies.",
            where="finetune sweep",
            fix="Give a setting several values, as in --set optimizer.lr=1e-4,3e-4.",
        )
    return [choices[0].setting for choices in read.values() if len(choices) == 1], varied


def trials(varied: Sequence[Sequence[Choice]], number: int | None, seed: int) -> list[Trial]:
    """The runs of a sweep.

    Args:
        varied: The values of each setting that varies.
        number: How many of the combinations; None for all of them.
        seed: Of the draw; each set of so many combinations is as likely as any other.

    Returns:
        In the order of the grid, in which the last setting changes first.

    Raises:
        ConfigError: If there are fewer combinations than asked for, or too many.
    """
    there = math.prod(map(len, varied))
    if number is not None and number > there:
        raise ConfigError(
            f"There are only {there:,} combinations.",
            where=f"--random {number}",
            fix=f"Ask for at most {there:,}, or leave it out for all.",
        )
    if (number or there) > MOST:
        raise ConfigError(
            f"These are {number or there:,} runs, more than {MOST:,}.",
            where=f"--random {number}" if number else "--set",
            fix="Try fewer values, or a random share of them with --random.",
        )
    places = range(there) if number is None else sorted(random.Random(seed).sample(range(there), number))
    lengths = [len(choices) for choices in varied]
    chosen = (_combination(varied, lengths, place) for place in places)
    return [Trial(count, choices) for count, choices in zip(itertools.count(1), chosen)]


def _combination(
    varied: Sequence[Sequence[Choice]], lengths: Sequence[int], place: int
) -> tuple[Choice, ...]:
    """That at a place of the grid: the digits of a number whose bases are the numbers of values."""
    digits: list[int] = []
    for length in reversed(lengths):
        place, digit = divmod(place, length)
        digits.append(digit)
    return tuple(choices[digit] for choices, digit in zip(varied, reversed(digits), strict=True))


def identity(
    kind: str, fixed: Sequence[Setting], varied: Sequence[Sequence[Choice]], number: int | None, seed: int
) -> dict[str, Any]:
    """What makes a sweep the same one when it is resumed, as plain data."""
    return {
        "kind": kind,
        "settings": {setting.key: setting.value for setting in fixed},
        "varied": {choices[0].key: [choice.text for choice in choices] for choices in varied},
        "random": number,
        "seed": seed if number is not None else None,
    }
