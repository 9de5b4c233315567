"""A folder of pictures with captions: what can be trained on, what cannot, and why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from finetune.config import DataSection, SourceSection
from finetune.data.decode import BACKGROUND, PictureError, alone_if_large, decode_picture
from finetune.data.kinds import readable
from finetune.data.layouts import Found, Listing, Skipped, list_folder, relative_name
from finetune.data.notes import (
    NAMED,
    caption_notes,
    duplicate_notes,
    listing,
    picture_notes,
    skipped_notes,
)
from finetune.data.origin import Origin, unchanged
from finetune.data.read import Reader
from finetune.data.rows import is_dataset, list_rows
from finetune.data.trigger import with_trigger
from finetune.errors import DataError

if TYPE_CHECKING:
    from finetune.data.streams.stream import Stream


@dataclass(frozen=True)
class Picture:
    """A picture that was read in full.

    Attributes:
        origin: Where its bytes are, usually a file.
        name: The file as people see it: relative to the folder, with `/`.
        captions: What is said about it, at least one; a sample draws one of them. May be empty strings.
        digest: SHA-256 of the file's bytes, in hex.
        width: Width in pixels, upright.
        height: Height in pixels, upright.
        background: The color under its transparent parts; None if it has none.
        mask: What says where its loss counts, if it is beside it.
        repeats: How often an epoch shows it, at least 1.
        captioned: Whether the folder gave its captions; else they are the prompt or a default.
        source: The entry of `data.sources` that it is from; None for the main folder.
    """

    origin: Origin
    name: str
    captions: tuple[str, ...]
    digest: str
    width: int
    height: int
    background: str | None = None
    mask: Origin | None = None
    repeats: int = 1
    captioned: bool = True
    source: SourceSection | None = None

    @property
    def caption(self) -> str:
        """The first caption."""
        return self.captions[0]

    @property
    def content(self) -> str:
        """What its pixels are made from: the digest, and the background if it is seen and not the usual."""
        seen = self.background not in (None, BACKGROUND)
        return f"{self.digest} on {self.background}" if seen else self.digest

    def read(self) -> Image.Image:
        """The picture as 8-bit RGB; call it inside `quiet_pillow`.

        Raises:
            DataError: If the file is gone or no longer holds the bytes it was scanned with.
        """
        data = unchanged(self.origin, self.digest, "picture")
        return decode_picture(data, self.background or BACKGROUND).image

    @contextmanager
    def opened(self) -> Iterator[Image.Image]:
        """As `read`, but no other large picture is opened meanwhile."""
        with alone_if_large(self.width * self.height):
            yield self.read()


@dataclass(frozen=True)
class Folder:
    """What a folder holds.

    Attributes:
        path: The folder, or the data set.
        pictures: Those that can be trained on, by relative name or row; at least one.
        skipped: Those that cannot.
        notes: Lines for the user about captions, layout, odd pictures and ignored files.
        ignored: Files that are not pictures and that nothing was made of.
        places: The folders that the pictures are from, for people, if there are several.
        revision: The commit of a data set of the Hub.
        start: The number of the first sample that shows one of them; above 0 for a block of a stream.
        stream: What the pictures are only the first of, if they are read as a stream.
    """

    path: Path
    pictures: tuple[Picture, ...]
    skipped: tuple[Skipped[Origin], ...]
    notes: tuple[str, ...]
    ignored: tuple[Skipped, ...] = field(default=(), kw_only=True)
    places: str = field(default="", kw_only=True)
    revision: str | None = field(default=None, kw_only=True)
    start: int = field(default=0, kw_only=True)
    stream: Stream | None = field(default=None, kw_only=True)

    @property
    def left_out(self) -> list[Skipped[Origin]]:
        """Every file that is not made use of, by relative name."""
        return sorted([*self.skipped, *self.ignored], key=lambda one: one.name)


class NothingUsable(DataError):
    """Not a single file of a folder can be trained on.

    Args:
        what: One sentence that says so.
        folder: The folder.
        skipped: Its files.
        fix: One sentence that says what to do instead.
    """

    def __init__(self, what: str, folder: Path, skipped: Sequence[Skipped[Origin]], fix: str) -> None:
        self.sentence, self.skipped = what, tuple(skipped)
        lines = skipped_notes((s.name, s.reason) for s in skipped)
        if len(skipped) > NAMED:
            fix = f"{fix} finetune check with --json names all of them."
        super().__init__(
            "\n".join([f"{what}:", *(f"  {line}" for line in lines)]), where=str(folder), fix=fix
        )


@dataclass(frozen=True)
class _Read:
    picture: Picture
    notes: tuple[str, ...]


def digest_of(pictures: Sequence[Picture]) -> str:
    """SHA-256, in hex, of what the pictures are made from, in their order."""
    return hashlib.sha256(" ".join(p.content for p in pictures).encode()).hexdigest()


def scan_folder(
    folder: Path | str | None,
    prompt: str | None = None,
    data: DataSection | None = None,
    reader: Reader | None = None,
) -> Folder:
    """Finds the pictures of a folder, in any of the `layouts`, and reads each in full.

    A picture's captions are those that the folder gives. Without any it is `prompt`; without a prompt
    what the layout says, as kohya's folders do, and else "a photo of FOLDER".

    Args:
        folder: The folder, a file of OneTrainer's concepts, or a data set of Hugging Face's `datasets`; None
            for the data set that the settings name.
        prompt: Caption of the pictures that have none.
        data: The recipe's settings; their defaults if not given.
        reader: How the files are read; as the settings have it if None.

    Raises:
        DataError: If there is no such folder or nothing in it can be trained on.
    """
    data = data or DataSection()
    reader = reader or Reader.of(data)
    from finetune.data.streams.opening import is_stream, scan_stream

    if is_stream(path := None if folder is None else Path(folder), data):
        return scan_stream(path, prompt, data, reader)
    listed = list_data(None if folder is None else Path(folder), data)
    place, kind = (listed.root, "data set") if folder is None else (Path(folder), "folder")
    default = f"a photo of {listed.root.resolve().name}" if prompt is None else prompt
    found, told = with_trigger(listed, prompt)
    results = reader.map(lambda one: _read(one, listed.root, prompt, default, reader), found)
    read = [r for r in results if isinstance(r, _Read)]
    skipped = sorted([*listed.skipped, *(r for r in results if isinstance(r, Skipped))], key=lambda s: s.name)
    if not read:
        raise _nothing(place, skipped, listed.notes)
    pictures = [r.picture for r in read]
    here = [one for one, result in zip(found, results, strict=True) if isinstance(result, _Read)]
    own = sum(bool(one.captions) for one in here)
    said = sum(prompt is None and not one.captions and one.default is not None for one in here)
    unused = [] if data.mask == "files" else [p.name for p in pictures if p.mask]
    masks = f"masks beside pictures are not used (data.mask=files uses them): {listing(unused)}"
    notes = [
        *caption_notes({p.name: p.captions for p in pictures}, own, said, prompt, default, kind),
        *told,
        *listed.notes,
        *([masks] if unused else []),
        *picture_notes((r.picture.name, note) for r in read for note in r.notes),
        *duplicate_notes({p.name: p.digest for p in pictures}),
    ]
    return Folder(
        place,
        tuple(pictures),
        tuple(skipped),
        tuple(notes),
        ignored=listed.ignored,
        revision=listed.revision,
    )


def list_data(folder: Path | None, data: DataSection, setting: str = "") -> Listing[Origin]:
    """What a folder of pictures offers, or a data set.

    Args:
        folder: As in `scan_folder`.
        data: The recipe's settings.
        setting: The setting that gives `folder`, for errors.

    Raises:
        DataError: If it is not there or cannot be read.
    """
    if folder is None or is_dataset(folder):
        return list_rows(folder, data)
    return list_pictures(folder, data, setting)


def list_pictures(folder: Path, data: DataSection, setting: str = "") -> Listing:
    """As `list_data`, of a folder that is no data set."""
    # Folders that have another use are not searched for pictures.
    others, lines = data.folders(), data.captions == "lines"
    listed = list_folder(folder, nested=data.nested, lines=lines, leave_out=others, setting=setting)
    unused = [f"{name} has no effect on a folder of pictures" for name in data.about_rows]
    return replace(listed, notes=(*unused, *listed.notes))


def name_of(found: Found[Origin], root: Path) -> str:
    """What people call a picture of a listing with this root."""
    return found.name or relative_name(found.path, root)


def read_picture(
    origin: Origin, name: str, captions: tuple[str, ...], reader: Reader
) -> tuple[Picture, tuple[str, ...]]:
    """Reads a picture, and what its owner should know about it; call it inside the reader's `map`.

    Args:
        origin: Where its bytes are.
        name: What people know it by.
        captions: At least one.
        reader: How it is read.

    Raises:
        PictureError: If it cannot be trained on.
    """
    digest, facts = reader.read(origin)
    seen = [f"transparent parts became {reader.background}"] if facts.transparent else []
    background = reader.background if facts.transparent else None
    picture = Picture(origin, name, captions, digest, facts.width, facts.height, background)
    return picture, (*facts.notes, *seen)


def _read(
    found: Found[Origin], root: Path, prompt: str | None, default: str, reader: Reader
) -> _Read | Skipped[Origin]:
    """Reads one picture in full; without captions of its own it gets the prompt or a default."""
    said = default if prompt is not None or found.default is None else found.default
    name = name_of(found, root)
    try:
        picture, notes = read_picture(found.path, name, found.captions or (said,), reader)
    except PictureError as reason:
        return Skipped(found.path, str(reason), name)
    own = bool(found.captions)
    return _Read(replace(picture, repeats=found.repeats, mask=found.mask, captioned=own), notes)


def _nothing(folder: Path, skipped: Sequence[Skipped[Origin]], notes: Sequence[str]) -> DataError:
    """The error for a folder without a single picture that can be used."""
    if skipped:
        fix = f"Replace them with intact {readable()} files."
        return NothingUsable("None of the pictures can be used", folder, skipped, fix)
    return DataError(
        "\n".join(["The folder holds no pictures.", *(f"  {note}" for note in notes)]),
        where=str(folder),
        fix=f"Put a few {readable()} files into it.",
    )
