"""A folder of pictures with captions: what can be trained on, what cannot, and why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from finetune.data.decode import BACKGROUND, SUFFIXES, PictureError, alone_if_large, decode_picture
from finetune.data.notes import (
    caption_notes,
    duplicate_notes,
    holds_pictures,
    ignored_notes,
    listing,
    unsupported,
)
from finetune.data.read import Reader
from finetune.errors import DataError

LONGEST_CAPTION = 10_000
"""Characters of a caption; a model sees a few hundred."""


@dataclass(frozen=True)
class Picture:
    """A picture that was read in full.

    Attributes:
        path: Its file.
        caption: What is said about it; may be empty.
        digest: SHA-256 of the file's bytes, in hex.
        width: Width in pixels, upright.
        height: Height in pixels, upright.
        background: The color under its transparent parts; None if it has none.
    """

    path: Path
    caption: str
    digest: str
    width: int
    height: int
    background: str | None = None

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
        data = unchanged(self.path, self.digest, "picture")
        return decode_picture(data, self.background or BACKGROUND).image

    @contextmanager
    def opened(self) -> Iterator[Image.Image]:
        """As `read`, but no other large picture is opened meanwhile."""
        with alone_if_large(self.width * self.height):
            yield self.read()


@dataclass(frozen=True)
class Skipped:
    """A file that looks like a picture and is not trained on.

    Attributes:
        path: The file.
        reason: Why, as words that follow a colon.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Folder:
    """What a folder holds.

    Attributes:
        path: The folder.
        pictures: Those that can be trained on, by file name; at least one.
        skipped: Those that cannot.
        notes: Lines for the user about captions, odd pictures and ignored files.
    """

    path: Path
    pictures: tuple[Picture, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    picture: Picture
    own_caption: bool
    notes: tuple[str, ...]


def digest_of(pictures: Sequence[Picture]) -> str:
    """SHA-256, in hex, of what the pictures are made from, in their order."""
    return hashlib.sha256(" ".join(p.content for p in pictures).encode()).hexdigest()


def scan_folder(folder: Path | str, prompt: str | None = None, reader: Reader | None = None) -> Folder:
    """Reads every picture of a folder in full and finds its caption.

    The caption is the text of `NAME.txt` beside the picture (UTF-8, runs of whitespace count as
    one space); without such a file it is `prompt`, and without a prompt "a photo of FOLDER".
    Hidden files are ignored; subfolders are not searched.

    Args:
        folder: The folder.
        prompt: Caption of the pictures that have no text file.
        reader: How the files are read; a plain one if None.

    Raises:
        DataError: If there is no such folder or nothing in it can be trained on.
    """
    folder = Path(folder)
    files, subfolders = entries(folder)
    candidates = [f for f in files if f.suffix.lower() in SUFFIXES]
    if not candidates:
        raise _no_pictures(folder, files, subfolders)
    default = f"a photo of {folder.resolve().name}" if prompt is None else prompt
    reader = reader or Reader()
    results = reader.map(lambda path: _read(path, default, reader), candidates)
    reason = "this format is not supported; save it as PNG or JPEG"
    results += [Skipped(f, reason) for f in files if unsupported(f)]
    read = [r for r in results if isinstance(r, _Read)]
    skipped = sorted((r for r in results if isinstance(r, Skipped)), key=lambda s: s.path.name)
    if not read:
        reasons = [f"  {s.path.name}: {s.reason}" for s in skipped]
        raise DataError(
            "\n".join(["None of the pictures can be read:", *reasons]),
            where=str(folder),
            fix="Replace them with intact PNG, JPEG, WebP, BMP or TIFF files.",
        )
    captions = {r.picture.path.name: r.picture.caption for r in read}
    notes = [
        *caption_notes(captions, sum(r.own_caption for r in read), prompt, default),
        *(f"{r.picture.path.name}: {note}" for r in read for note in r.notes),
        *duplicate_notes({r.picture.path.name: r.picture.digest for r in read}),
        *ignored_notes(files, subfolders),
    ]
    return Folder(folder, tuple(r.picture for r in read), tuple(skipped), tuple(notes))


def entries(folder: Path, setting: str = "") -> tuple[list[Path], list[Path]]:
    """The visible files and subfolders of `folder`, by name; errors name the setting that gives it.

    Raises:
        DataError: If there is no such folder, or it cannot be read.
    """
    where = f"{setting} = {folder}" if setting else str(folder)
    if not folder.exists():
        raise DataError("There is no such folder.", where=where, fix="Check the path for typos.")
    if not folder.is_dir():
        raise DataError(
            "This is a file, but a folder of pictures is needed.",
            where=where,
            fix=f"Give the folder that holds the pictures, e.g. {folder.parent}.",
        )
    try:
        found = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(
            f"The folder cannot be read: {error.strerror}.", where=where, fix="Check its permissions."
        ) from error
    # What is neither (a pipe, a link to nothing) is told with the files; pathlib's tests may raise.
    folders = {e for e in found if os.path.isdir(e)}
    return [e for e in found if e not in folders], [e for e in found if e in folders]


def companions(
    pictures: Sequence[Path], folder: Path, kind: str, setting: str
) -> tuple[list[Path | None], list[str]]:
    """For each picture, the file in another folder with its name, whatever the extension.

    Args:
        pictures: Their files.
        folder: The other folder.
        kind: What it holds, for messages: "masks".
        setting: The dotted key that gives the folder, for messages.

    Returns:
        The file that goes with each, or None; and a note of files that go with none.

    Raises:
        DataError: If the folder cannot be read, or two files would go with the same picture.
    """
    found: dict[str, Path] = {}
    for file in entries(folder, setting)[0]:
        if file.suffix.lower() in SUFFIXES and found.setdefault(file.stem, file) != file:
            raise DataError(
                f"Two {kind} are for the same picture: {found[file.stem].name} and {file.name}.",
                where=f"{setting} = {folder}",
                fix="Remove one of them.",
            )
    stems = {picture.stem for picture in pictures}
    alone = [file.name for stem, file in found.items() if stem not in stems]
    notes = [f"{kind} without a picture of the same name: {listing(alone)}"] if alone else []
    return [found.get(picture.stem) for picture in pictures], notes


def unchanged(path: Path, digest: str, kind: str) -> bytes:
    """The bytes of a file of the run, a `kind`, if they still have the digest they were scanned with.

    Raises:
        DataError: If the file is gone or was changed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"A {kind} of the run can no longer be read: {error.strerror}.",
            where=str(path),
            fix="Put the file back and run again.",
        ) from error
    # Its latents are cached under the scanned digest; with other bytes the cache would lie.
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(
            f"A {kind} was changed during the run.",
            where=str(path),
            fix="Leave the folder alone during training, and run again.",
        )
    return data


def read_picture(path: Path, caption: str, reader: Reader) -> tuple[Picture, tuple[str, ...]]:
    """Reads a picture file, and what its owner should know about it; call it inside the reader's `map`.

    Raises:
        PictureError: If it cannot be trained on.
    """
    digest, facts = reader.read(path)
    seen = [f"transparent parts became {reader.background}"] if facts.transparent else []
    background = reader.background if facts.transparent else None
    return Picture(path, caption, digest, facts.width, facts.height, background), (*facts.notes, *seen)


def _read(path: Path, default: str, reader: Reader) -> _Read | Skipped:
    """Reads one picture in full, with its caption or else `default`."""
    try:
        text = caption_file(path)
        picture, notes = read_picture(path, default if text is None else text, reader)
    except PictureError as reason:
        return Skipped(path, str(reason))
    return _Read(picture, text is not None, notes)


def caption_file(picture: Path) -> str | None:
    """The text beside a picture, or None if there is no such file.

    Raises:
        PictureError: If it cannot be read.
    """
    path = picture.with_suffix(".txt")
    try:
        # A file that is too large for a caption is read only far enough to see it.
        with path.open(encoding="utf-8-sig") as file:
            caption = " ".join(file.read(8 * LONGEST_CAPTION).split())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        # Reading it in another encoding would be a guess.
        raise PictureError(f"its caption {path.name} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise PictureError(f"its caption {path.name} cannot be read ({error.strerror})") from None
    if len(caption) > LONGEST_CAPTION:
        raise PictureError(f"its caption {path.name} is longer than {LONGEST_CAPTION:,} characters")
    return caption


def _no_pictures(folder: Path, files: list[Path], subfolders: list[Path]) -> DataError:
    """The error for a folder without a single picture file."""
    kinds = "PNG, JPEG, WebP, BMP or TIFF"
    filled = [s.name for s in subfolders if holds_pictures(s)]
    if filled:
        fix = f"Give one of its subfolders that hold pictures: {listing(filled)}."
    elif any(unsupported(f) for f in files):
        fix = f"Save the pictures as {kinds} first."
    else:
        fix = f"Put a few {kinds} files into it."
    if not files and not subfolders:
        what = "The folder is empty."
    elif not files:
        what = "The folder holds only subfolders, which are not searched."
    else:
        what = f"The folder holds no pictures, only {listing([f.name for f in files])}."
    return DataError(what, where=str(folder), fix=fix)
