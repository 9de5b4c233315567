"""Variants of a caption, each a pure function of (seed, sample number) (P1).

A caption is a list of tags, separated by commas; a sentence is one tag. As in kohya's scripts, a wildcard is
drawn first, then tags are split off, what is kept is set apart, and the rest is shuffled and thinned out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from finetune.config import CaptionsSection, SourceSection
from finetune.diffusion.random import draw_seed

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_INNERMOST = re.compile(r"\{([^{}]*)\}")


def variant(caption: str, section: CaptionsSection, seed: int, number: int) -> str:
    """The caption that the sample of this number sees.

    Args:
        caption: As it is in the data.
        section: How it is varied.
        seed: The run's seed.
        number: The global sample number.
    """
    if section.wildcards:
        caption = _without_wildcards(caption, _draws(seed, number, "wildcards"))
    if section.shuffle or section.tag_dropout or section.keep_separator is not None:
        caption = _with_tags_varied(caption, section, seed, number)
    return " ".join(part for part in (section.prefix.strip(), caption, section.suffix.strip()) if part)


def names_a_side(captions: Iterable[str]) -> bool:
    """Whether any of a picture's captions says left or right, which is wrong of its mirror image."""
    return any(map(_SIDES.search, captions))


def with_affixes(section: CaptionsSection, source: SourceSection | None) -> CaptionsSection:
    """The settings with the prefix and suffix that an entry of `data.sources` has in place of theirs."""
    if source is None:
        return section
    own = {"prefix": source.prefix, "suffix": source.suffix}
    return section.model_copy(update={name: text for name, text in own.items() if text is not None})


def _draws(seed: int, number: int, purpose: str) -> random.Random:
    # Python's generator, since it shuffles lists; the same numbers on every system.
    return random.Random(draw_seed(seed, number, f"caption {purpose}"))


def _without_wildcards(caption: str, draws: random.Random) -> str:
    """One of each group in braces, the innermost first; braces without a partner stay."""
    while match := _INNERMOST.search(caption):
        caption = caption[: match.start()] + draws.choice(match[1].split("|")) + caption[match.end() :]
    return " ".join(caption.split())


def _with_tags_varied(caption: str, section: CaptionsSection, seed: int, number: int) -> str:
    begin, tags, end = _parted(caption, section)
    if section.tag_dropout:
        draws = _draws(seed, number, "tag dropout")
        tags = [tag for tag in tags if draws.random() >= section.tag_dropout]
    if section.shuffle:
        _draws(seed, number, "shuffle").shuffle(tags)
    if section.group_separator is not None:
        tags = [", ".join(_tags(tag, section.group_separator)) for tag in tags]
    return ", ".join([*begin, *tags, *end])


def _parted(caption: str, section: CaptionsSection) -> tuple[list[str], list[str], list[str]]:
    """The tags that stay at the beginning, those that vary, and those that stay at the end."""
    if section.keep_separator is not None and section.keep_separator in caption:
        begin, _, rest = caption.partition(section.keep_separator)
        middle, _, end = rest.partition(section.keep_separator)
        return _tags(begin), _tags(middle), _tags(end)
    tags = _tags(caption)
    return tags[: section.keep_tags], tags[section.keep_tags :], []


def _tags(text: str, separator: str = ",") -> list[str]:
    return [tag for part in text.split(separator) if (tag := part.strip())]
