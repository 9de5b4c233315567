"""What a folder offers: pictures with what is said about them, before any picture is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from typing_extensions import TypeVar

from finetune.data.origin import Origin

if TYPE_CHECKING:
    from finetune.data.layouts.metadata import Metadata

Place = TypeVar("Place", bound=Origin, covariant=True, default=Path)
"""Where pictures are: files of a folder, or rows of a data set."""

LONGEST_CAPTION = 10_000
"""Characters of a caption; a model sees a few hundred."""


@dataclass(frozen=True)
class Skipped(Generic[Place]):
    """A file, or a folder that cannot be read, that is not trained on.

    Attributes:
        path: The file, or what it is a part of.
        reason: Why, as words that follow a colon.
        name: The file as people see it, relative to the folder.
        meant: Whether the folder's layout has it for something else.
    """

    path: Place
    reason: str
    name: str = ""
    meant: bool = False


@dataclass(frozen=True)
class Found(Generic[Place]):
    """A picture that the folder offers; its file has not been opened.

    Attributes:
        path: Where the picture is, usually its file.
        captions: Those that the folder gives; empty if it gives none.
        default: The caption that the layout has for pictures without one, such as kohya's class tokens.
        repeats: How often an epoch shows it, at least 1.
        mask: The picture that says where its loss counts.
        control: Its conditioning picture.
        name: What people call it, if that is not its path.
    """

    path: Place
    captions: tuple[str, ...] = ()
    default: str | None = None
    repeats: int = 1
    mask: Place | None = None
    control: Place | None = None
    name: str = ""


@dataclass(frozen=True)
class Listing(Generic[Place]):
    """Everything that a folder offers.

    Attributes:
        root: The folder that names are relative to, or the data set.
        found: The pictures, by relative name.
        notes: Lines for the user, the most important first.
        skipped: What is not trained on, by relative name.
        ignored: Files that are not pictures and that nothing was made of, by relative name.
        metadata: The metadata file of `root` itself, if it has one.
        revision: The commit of a data set of the Hub.
    """

    root: Path
    found: tuple[Found[Place], ...]
    notes: tuple[str, ...]
    skipped: tuple[Skipped[Place], ...]
    ignored: tuple[Skipped, ...] = ()
    metadata: Metadata | None = None
    revision: str | None = None


@dataclass
class Offer:
    """What one layout finds in a folder. Where two layouts disagree, the first in the table wins.

    Attributes:
        source: Where its captions come from, for messages.
        captions: By picture.
        folders: Repeats and default caption, by picture.
        masks: By picture.
        controls: Conditioning pictures, by picture.
        named: Pictures outside of what was searched that a file of the folder names.
        other_use: Pictures that the layout has for something else, such as masks, and for what.
        aside: Pictures that cannot be trained on, and why.
        unclaimed: Pictures that are trained on only if another layout has a caption, and why not else.
        used: Other files that were understood.
        notes: Lines for the user.
        metadata: What a metadata file in the folder itself says, row by row.
    """

    source: str = ""
    captions: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    folders: dict[Path, tuple[int, str]] = field(default_factory=dict)
    masks: dict[Path, Path] = field(default_factory=dict)
    controls: dict[Path, Path] = field(default_factory=dict)
    named: list[Path] = field(default_factory=list)
    other_use: dict[Path, str] = field(default_factory=dict)
    aside: dict[Path, str] = field(default_factory=dict)
    unclaimed: dict[Path, str] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    metadata: Metadata | None = None


def clean(text: str) -> str:
    """A caption with runs of whitespace as one space, and `?` for halves of characters (as JSON may have)."""
    return " ".join(text.encode(errors="replace").decode().split())


def split(text: str, lines: bool) -> tuple[str, ...]:
    """The captions in a text, at least one.

    Args:
        text: What a caption file holds.
        lines: Whether each line that is not empty is a caption of its own.
    """
    if not lines:
        return (clean(text),)
    return tuple(line for line in map(clean, text.splitlines()) if line) or ("",)


def too_long(captions: tuple[str, ...], source: str) -> str | None:
    """The reason not to train on a picture with these captions, if there is one."""
    if any(len(caption) > LONGEST_CAPTION for caption in captions):
        return f"its caption in {source} is longer than {LONGEST_CAPTION:,} characters"
    return None
