"""Further folders of pictures beside the main one, each with what differs from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from finetune.config.base import Fault, Fraction, Positive, Section

KEY = "data.sources"
SOURCES = (
    "Further folders, each with settings of its own (docs/data.md), such as `[{dir: ./more, repeats: 2}]`; "
    "also instead of the main folder."
)
"""What the setting is, for each kind of recipe."""


class SourceSection(Section):
    """One entry of `data.sources`: a further folder of pictures."""

    dir: Path = Field(description="The folder, in any layout of docs/data.md.")
    repeats: Positive = Field(
        1, description="How often an epoch shows each of its pictures, times what its layout says."
    )
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="Share of an epoch's samples that come from this folder, instead of `repeats`; where its "
        "pictures do not fit evenly, each epoch goes on where the last one stopped.",
    )
    prompt: str | None = Field(
        None,
        description="Caption of its pictures that have none of their own; as for the main folder without a "
        "prompt if unset.",
    )
    prefix: str | None = Field(None, description="In place of `captions.prefix`.")
    suffix: str | None = Field(None, description="In place of `captions.suffix`.")
    caption_dropout: Fraction | None = Field(None, description="In place of `data.caption_dropout`.")

    @property
    def taught(self) -> bool:
        """Whether its pictures are what is taught; else they are of the class."""
        return True

    @property
    def differences(self) -> tuple[str | None, str | None, float | None, float | None]:
        """What changes the samples that pictures and captions make, besides repeats."""
        return self.prefix, self.suffix, self.caption_dropout, self.share


class SubjectSourceSection(SourceSection):
    """A further folder of pictures of the subject, or of its class."""

    class_pictures: bool = Field(
        False,
        description="Its pictures are of the subject's class (regularization pictures): one joins each "
        "sample, its loss times `data.prior_weight`.",
    )

    @property
    def taught(self) -> bool:
        """As `SourceSection.taught`."""
        return not self.class_pictures


class PairsSourceSection(SourceSection):
    """A further folder of pictures that have control pictures."""

    conditioning_dir: Path | None = Field(
        None, description="Folder of control pictures named like those in `dir`."
    )


def source_faults(field: str, main: Path | None, sources: Sequence[SourceSection]) -> Iterator[Fault]:
    """What is wrong with further folders.

    Args:
        field: The setting of `data` that names the main folder.
        main: That folder, or the data set in its place.
        sources: The further ones.
    """
    seen = {_real(main): f"data.{field}"} if main is not None else {}
    for number, source in enumerate(sources, start=1):
        entry = f"entry {number} of {KEY}"
        named = f"Entry {number} of {KEY} ({source.dir})"
        if (first := seen.setdefault(_real(source.dir), entry)) != entry:
            yield Fault(f"{source.dir} is given twice: by {first} and by {entry}.", KEY, "Give it once.")
        if source.share is not None and source.repeats != 1:
            what = f"{named} has both repeats and a share."
            yield Fault(what, KEY, "Remove one of them.")
        if source.share is not None and not source.taught:
            what = f"{named} has a share, but each sample brings one class picture along."
            yield Fault(what, KEY, "Remove it; data.prior_weight says how much class pictures count.")
    taught = [source.share for source in sources if source.taught]
    shares = [share for share in taught if share is not None]
    total, others = math.fsum(shares), main is not None or None in taught
    if shares and others and total >= 1:
        what = f"The shares of {KEY} add up to {total:g}, which leaves nothing for the other folders."
        yield Fault(what, KEY, "Lower them, so that they add up to less than 1.")
    if shares and not others and not math.isclose(total, 1, abs_tol=1e-6):
        what = f"The shares of all folders add up to {total:g}, not to 1."
        yield Fault(what, KEY, "Change them, or leave one out: its folder gets the rest.")


def _real(folder: Path) -> str:
    return os.path.realpath(folder.expanduser())
