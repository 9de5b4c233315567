"""A folder of pictures that have control pictures: which belong together, and what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config import PairsSection
from finetune.data.decode import SUFFIXES, PictureError
from finetune.data.folder import Folder, Picture, Skipped, caption_file, companions, entries, read_picture
from finetune.data.notes import duplicate_notes, listing
from finetune.data.preprocess import alike
from finetune.data.read import Reader
from finetune.errors import DataError

METADATA = "metadata.jsonl"
# As `datasets` names the columns of an image folder, and as published pairs do.
_PICTURE = ("file_name", "image", "image_file_name")
_CONTROL = ("conditioning_image", "conditioning_image_file_name", "control")
_TEXT = ("text", "caption", "prompt")


@dataclass(frozen=True)
class PairedFolder(Folder):
    """Pictures, each with a control picture.

    Attributes:
        controls: The control picture of each picture; the picture itself if none is given.
    """

    controls: tuple[Picture, ...]


@dataclass(frozen=True)
class _Entry:
    """A pair as the folder gives it; nothing has been read.

    Attributes:
        picture: The picture's file.
        control: The control picture's file; None if it is to be made from the picture.
        caption: The caption, if the folder's metadata gives one.
    """

    picture: Path
    control: Path | None
    caption: str | None


@dataclass(frozen=True)
class _Pair:
    picture: Picture
    control: Picture
    notes: tuple[str, ...]


def scan_pairs(section: PairsSection, reader: Reader | None = None) -> PairedFolder:
    """Reads every pair of a data set in full.

    The pairs are the lines of `metadata.jsonl` in the folder; or the pictures of the folder, with
    control pictures of the same name in another folder or made from the pictures themselves. A caption
    is the line's, else the text of `NAME.txt` beside the picture, else the section's prompt.

    Args:
        section: The recipe's settings.
        reader: How the files are read; as the settings have it if None.

    Raises:
        DataError: If control pictures are not given, or given twice; if the metadata is not JSON
            lines; if a control picture has another aspect ratio than its picture; or if nothing can be
            trained on.
    """
    assert section.data_dir is not None
    folder = section.data_dir.expanduser()
    files, _ = entries(folder)
    found, notes, skipped = _entries(folder, files, section)
    reader = reader or Reader.of(section)
    read = reader.map(lambda entry: _read(entry, section.prompt or "", reader), found)
    pairs = [r for r in read if isinstance(r, _Pair)]
    skipped += [r for r in read if isinstance(r, Skipped)]
    if not pairs:
        reasons = [f"  {s.path.name}: {s.reason}" for s in skipped[:20]]
        raise DataError(
            "\n".join(["None of the pairs can be used:", *reasons]),
            where=str(folder),
            fix="Use intact PNG, JPEG, WebP, BMP or TIFF files, with a control picture for each.",
        )
    _check_shapes(pairs, folder)
    empty = [p.picture.path.name for p in pairs if not p.picture.caption]
    notes += [f"{p.picture.path.name}: {note}" for p in pairs for note in p.notes]
    notes += [f"empty caption: {listing(empty)}"] if empty else []
    notes += duplicate_notes({str(p.picture.path): p.picture.digest for p in pairs})
    return PairedFolder(
        folder,
        tuple(p.picture for p in pairs),
        tuple(skipped),
        tuple(notes),
        tuple(p.control for p in pairs),
    )


def _entries(
    folder: Path, files: Sequence[Path], section: PairsSection
) -> tuple[list[_Entry], list[str], list[Skipped]]:
    """The pairs by the folder's metadata or by their names, notes, and pictures without a partner."""
    metadata = folder / METADATA
    if metadata.is_file():
        found, notes = _from_metadata(metadata)
        _check_given_once(found, metadata, section)
        listed = {path.resolve() for e in found for path in (e.picture, e.control) if path}
    else:
        found = [_Entry(f, None, None) for f in files if f.suffix.lower() in SUFFIXES]
        notes, listed = [], {e.picture.resolve() for e in found}
        if section.preprocess == "none" and section.conditioning_dir is None:
            raise DataError(
                "The pictures have no control pictures.",
                where=str(folder),
                fix=f"Give a {METADATA} in the folder, a folder of control pictures with "
                "--conditioning-dir, or --preprocess edges to make them from the pictures.",
            )
    if not found:
        raise DataError("There are no pictures to train on.", where=str(folder), fix="Put some into it.")
    skipped: list[Skipped] = []
    if other := section.conditioning_dir:
        controls, unused = companions(
            [e.picture for e in found], other.expanduser(), "control pictures", "data.conditioning_dir"
        )
        pairs = list(zip(found, controls, strict=True))
        reason = f"no control picture of that name in {other}"
        skipped = [Skipped(entry.picture, reason) for entry, control in pairs if control is None]
        found = [replace(entry, control=control) for entry, control in pairs if control]
        notes += unused
    unlisted = [f.name for f in files if f.suffix.lower() in SUFFIXES and f.resolve() not in listed]
    return found, notes + ([f"not in {METADATA}: {listing(unlisted)}"] if unlisted else []), skipped


def _check_given_once(found: Sequence[_Entry], metadata: Path, section: PairsSection) -> None:
    has_control = [entry for entry in found if entry.control is not None]
    elsewhere = {
        "data.conditioning_dir": section.conditioning_dir is not None,
        "data.preprocess": section.preprocess != "none",
    }
    other = next((name for name, given in elsewhere.items() if given), None)
    if has_control and other:
        what = f"Control pictures are given twice: in {METADATA} and by {other}."
        fix = f"Leave {other} out, or remove `conditioning_image` from the lines."
    elif not has_control and not other:
        what = f"No line of {METADATA} names a control picture."
        fix = (
            'Write lines such as {"file_name": "1.png", "conditioning_image": "edges/1.png", '
            '"text": "a red cat"}, or set data.preprocess.'
        )
    else:
        return
    raise DataError(what, where=str(metadata), fix=fix)


def _from_metadata(metadata: Path) -> tuple[list[_Entry], list[str]]:
    found: list[_Entry] = []
    unknown: dict[str, None] = {}
    for where, line in _lines(metadata):
        picture = _value(line, _PICTURE, where)
        if picture is None:
            raise DataError(
                "This line names no picture.",
                where=where,
                fix='Write {"file_name": "1.png", "conditioning_image": "edges/1.png", "text": "…"}.',
            )
        control, text = _value(line, _CONTROL, where), _value(line, _TEXT, where)
        place = metadata.parent
        caption = None if text is None else " ".join(text.split())
        found.append(_Entry(place / picture, None if control is None else place / control, caption))
        unknown |= dict.fromkeys(key for key in line if key not in _PICTURE + _CONTROL + _TEXT)
    without = [e.picture.name for e in found if e.control is None]
    if 0 < len(without) < len(found):
        raise DataError(
            f"Some pictures have no `conditioning_image`: {listing(without)}.",
            where=str(metadata),
            fix="Name one in each line, or remove these lines.",
        )
    return found, [f"not used in {METADATA}: {listing(list(unknown))}"] if unknown else []


def _lines(metadata: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each line that is not empty, and where it is, for messages."""
    try:
        lines = metadata.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(
            f"The metadata cannot be read: {reason}.", where=str(metadata), fix="Save it as UTF-8."
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            content = error
        where = f"{metadata}, line {number}"
        if not isinstance(content, dict):
            raise DataError("This line is not a JSON object.", where=where, fix="Fix the line.")
        yield where, content


def _value(line: Mapping[str, Any], keys: Sequence[str], where: str) -> str | None:
    key = next((key for key in keys if line.get(key) is not None), None)
    if key is None:
        return None
    if not isinstance(line[key], str):
        raise DataError(f"`{key}` is not a string.", where=where, fix="Put its value in quotes.")
    return str(line[key])


def _read(entry: _Entry, default: str, reader: Reader) -> _Pair | Skipped:
    try:
        caption = entry.caption if entry.caption is not None else caption_file(entry.picture)
        picture, notes = read_picture(entry.picture, default if caption is None else caption, reader)
    except PictureError as reason:
        return Skipped(entry.picture, str(reason))
    if entry.control is None:
        return _Pair(picture, picture, notes)
    try:
        return _Pair(picture, read_picture(entry.control, "", reader)[0], notes)
    except PictureError as reason:
        return Skipped(entry.picture, f"its control picture {entry.control.name}: {reason}")


def _check_shapes(pairs: Sequence[_Pair], folder: Path) -> None:
    """Refuses control pictures with another aspect ratio; those of another size are resized."""
    wrong = [
        f"{p.picture.path.name} ({p.picture.width}x{p.picture.height}) and "
        f"{p.control.path.name} ({p.control.width}x{p.control.height})"
        for p in pairs
        if not alike((p.control.width, p.control.height), (p.picture.width, p.picture.height))
    ]
    if wrong:
        raise DataError(
            f"Picture and control picture differ in shape: {listing(wrong, 3)}.",
            where=str(folder),
            fix="Make each control picture from its picture, without cropping or rotating it.",
        )
