"""What a check finds in a data set, and what it has to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, Literal

from finetune.config.captions import AS_THEY_ARE, CaptionsSection
from finetune.data.captions import variant, with_affixes
from finetune.data.doctor.framing import Framed
from finetune.data.doctor.look import Look
from finetune.data.folder import Folder, Picture
from finetune.data.notes import listing

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From the worst: it cannot be trained on; it will likely be learned wrong; good to know."""


_LONGEST = 60  # characters of a detail in a line


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: For programs, such as "blurred".
        severity: How bad it is.
        sentence: For people, without the names of files.
        files: The names of the files that it is about, each with a detail or an empty text.
        fix: What to do about it; may be empty.
    """

    name: str
    severity: Severity
    sentence: str
    files: Mapping[str, str] = field(default_factory=dict)
    fix: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {**vars(self), "files": dict(self.files)}

    def line(self, most: int = 3) -> str:
        """In one line, with so many files by name."""
        files = [
            f"{name} ({shorten(detail, _LONGEST)})" if detail else name for name, detail in self.files.items()
        ]
        return f"{self.sentence}: {listing(files, most)}" if files else self.sentence


@dataclass(frozen=True)
class DataSet:
    """A scanned folder, and what is going to be done with it.

    Attributes:
        folder: What was scanned.
        framed: What part of each picture is trained on; empty if nobody has asked.
        crop_warning: Share of a picture's area that may be cropped away before it is a warning.
        trigger: The word that stands for what is taught; empty if there is none.
        asked: Whether the user gave it; else it was made from the folder's name.
        looks: What the pictures look like, in their order; empty if nobody has looked.
        tokenizers: The model's; empty if they are not known.
        varied: How captions are varied.
        tokens: Those of a caption that the model sees, begin and end included.
        pieces: How many times so many.
        flip: Whether half of the samples are mirrored.
    """

    folder: Folder
    framed: Framed = ()
    crop_warning: float = 0.1
    trigger: str = ""
    asked: bool = False
    looks: Sequence[Look] = ()
    tokenizers: Sequence[Any] = ()
    varied: CaptionsSection = AS_THEY_ARE
    tokens: int = 77
    pieces: int = 1
    flip: bool = False

    @property
    def captioned(self) -> list[Picture]:
        """The pictures that the folder has captions for."""
        return [picture for picture in self.folder.pictures if picture.captioned]

    def said(self, picture: Picture) -> list[str]:
        """The captions of a picture as a sample has them."""
        varied = with_affixes(self.varied, picture.source)
        return [variant(caption, varied, 0, 0) for caption in picture.captions]

    def seen(self) -> Iterator[tuple[Picture, Look]]:
        """The pictures that somebody has looked at."""
        return zip(self.folder.pictures, self.looks)  # noqa: B905 - all or none
