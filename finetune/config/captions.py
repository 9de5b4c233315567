"""How a caption is varied from sample to sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from finetune.config.base import Fault, Fraction, Section


class CaptionsSection(Section):
    """How captions are varied; a sample's variant depends on the seed and its number alone.

    They follow kohya's (`process_caption` in its library/train_util.py), but prefix and suffix are put on
    last, so that they are neither moved nor dropped.
    """

    prefix: str = Field("", description="Put before every caption, with a space between.")
    suffix: str = Field("", description="Put after every caption, with a space between.")
    shuffle: bool = Field(False, description="Shuffle the tags of a caption: its parts between commas.")
    keep_tags: Annotated[int, Field(ge=0)] = Field(
        0, description="Tags at the beginning that are never moved or dropped."
    )
    keep_separator: str | None = Field(
        None,
        description="Text such as `|||` in captions: what is before it (and after a second one) is never "
        "moved or dropped.",
    )
    group_separator: str | None = Field(
        None, description="Text such as `;;;` between tags that are moved and dropped together."
    )
    tag_dropout: Fraction = Field(0.0, description="Share of the tags that are left out at random.")
    wildcards: bool = Field(
        False, description="Of `{red|green|blue}` in a caption one is drawn; braces may be nested."
    )

    @property
    def varies(self) -> bool:
        """Whether a caption differs from sample to sample."""
        return self.shuffle or self.wildcards or self.tag_dropout > 0

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        for name in ("keep_tags", "group_separator"):
            if self._given(name) and not (self.shuffle or self.tag_dropout):
                yield Fault(
                    f"captions.{name} has no effect while tags are neither shuffled nor dropped.",
                    f"captions.{name}",
                    f"Set captions.shuffle=true or captions.tag_dropout, or remove captions.{name}.",
                )
        for name in ("keep_separator", "group_separator"):
            separator = getattr(self, name)
            if separator is not None and not separator.strip(" ,"):
                yield Fault(
                    f"A {name.replace('_', ' ')} must be more than commas and spaces.",
                    f"captions.{name}",
                    "Use something that captions do not contain otherwise, such as |||.",
                )
        if self.keep_tags and self.keep_separator is not None:
            yield Fault(
                "What is kept is given twice: by a number of tags and by a separator.",
                "captions.keep_tags",
                "Remove captions.keep_tags or captions.keep_separator.",
            )


AS_THEY_ARE = CaptionsSection()
"""Captions that are not varied."""
