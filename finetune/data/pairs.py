"""A folder of pictures that have control pictures: which belong together, and what cannot be used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.config import PairsSection
from finetune.data.companions import companions
from finetune.data.decode import PictureError
from finetune.data.folder import (
    Folder,
    NothingUsable,
    Picture,
    list_pictures,
    name_of,
    read_picture,
)
from finetune.data.kinds import readable
from finetune.data.layouts import Found, Listing, Skipped, relative_name
from finetune.data.layouts.metadata import Metadata
from finetune.data.notes import EMPTY, duplicate_notes, listing, picture_notes
from finetune.data.origin import Origin
from finetune.data.preprocess import alike
from finetune.data.read import Reader
from finetune.data.rows import is_dataset, list_rows
from finetune.data.trigger import with_trigger
from finetune.errors import DataError


@dataclass(frozen=True)
class PairedFolder(Folder):
    """Pictures, each with a control picture.

    Attributes:
        controls: The control picture of each picture; the picture itself if none is given.
    """

    controls: tuple[Picture, ...]


@dataclass(frozen=True)
class _Pair:
    picture: Picture
    control: Picture
    notes: tuple[str, ...]


def scan_pairs(section: PairsSection, reader: Reader | None = None) -> PairedFolder:
    """Reads every pair of a data set in full.

    The pairs are the lines of `metadata.jsonl` (`.csv`, `.parquet`) in the folder; or the pictures of the
    folder, with control pictures beside them as OneTrainer has them, of the same name in another folder, or
    made from the pictures themselves. A caption is the line's, else that of a caption file beside the
    picture, else the section's prompt.

    Args:
        section: The recipe's settings.
        reader: How the files are read; as the settings have it if None.

    Raises:
        DataError: If control pictures are not given, or given twice; if the metadata cannot be read;
            if a control picture has another aspect ratio than its picture; or if nothing can be trained on.
    """
    from finetune.data.streams.opening import is_stream, scan_stream

    reader = reader or Reader.of(section)
    if is_stream(given := section.data_dir and section.data_dir.expanduser(), section):
        first = scan_stream(given, section.prompt or "", section, reader)
        assert isinstance(first, PairedFolder)
        return first
    listed = _listed(section)
    folder = listed.root
    found, told = with_trigger(listed, section.prompt)
    metadata = listed.metadata.path if listed.metadata else None
    found, notes, skipped = _with_controls(found, folder, metadata, section)
    skipped += listed.skipped
    read = reader.map(lambda one: _read(one, folder, section.prompt or "", reader), found)
    pairs = [r for r in read if isinstance(r, _Pair)]
    skipped += [r for r in read if isinstance(r, Skipped)]
    if not pairs:
        fix = f"Use intact {readable()} files, with a control picture for each."
        raise NothingUsable("None of the pairs can be used", folder, skipped, fix)
    _check_shapes(pairs, folder)
    empty = [p.picture.name for p in pairs if "" in p.picture.captions]
    notes = [*told, *listed.notes, *notes]
    notes += picture_notes((p.picture.name, note) for p in pairs for note in p.notes)
    notes += [f"{EMPTY}: {listing(empty)}"] if empty else []
    notes += duplicate_notes({p.picture.name: p.picture.digest for p in pairs})
    return PairedFolder(
        folder,
        tuple(p.picture for p in pairs),
        tuple(sorted(skipped, key=lambda s: s.name)),
        tuple(notes),
        tuple(p.control for p in pairs),
        ignored=listed.ignored,
        revision=listed.revision,
    )


def _listed(section: PairsSection) -> Listing[Origin]:
    """The pairs that the folder or data set holds."""
    folder = section.data_dir and section.data_dir.expanduser()
    if folder is None or is_dataset(folder):
        return list_rows(folder, section)
    listed = list_pictures(folder, section, section.folders()[folder])
    return listed if listed.metadata is None else _of_rows(listed, listed.metadata)


def _of_rows(listed: Listing, metadata: Metadata) -> Listing:
    """One pair a row of the metadata, in its order: one picture may have several control pictures."""
    known = {os.path.realpath(one.path): one for one in listed.found}
    seen: set[Found] = set()
    found: list[Found] = []
    for row in metadata.rows:
        one = replace(known.get(os.path.realpath(row.picture), Found(row.picture)), control=row.control)
        one = replace(one, captions=row.captions or one.captions)
        if one not in seen:
            found.append(one)
        seen.add(one)
    rest = [one for one in listed.found if all(one.path != other.path for other in found)]
    reason = f"no line of {metadata.path.name} names it"
    skipped = [Skipped(one.path, reason, relative_name(one.path, listed.root)) for one in rest]
    used = {os.path.realpath(one.control) for one in found if one.control}
    others = [s for s in listed.skipped if os.path.realpath(s.path) not in used]
    return replace(listed, found=tuple(found), skipped=(*others, *skipped))


def _with_controls(
    found: list[Found[Origin]], folder: Path, metadata: Path | None, section: PairsSection
) -> tuple[list[Found[Origin]], list[str], list[Skipped[Origin]]]:
    """The pictures with their control pictures, notes, and pictures without one."""
    if not found:
        raise DataError("There are no pictures to train on.", where=str(folder), fix="Put some into it.")
    given = [one for one in found if one.control is not None]
    other = "data.conditioning_dir" if section.conditioning_dir else "data.preprocess"
    if section.conditioning_dir is None and section.preprocess == "none":
        return given, [], _without(found, folder, metadata)
    if given:
        source = metadata.name if metadata else "the folder"
        raise DataError(
            f"Control pictures are given twice: in {source} and by {other}.",
            where=str(metadata or folder),
            fix=f"Leave {other} out, or remove `conditioning_image` from the lines.",
        )
    if section.conditioning_dir is None:
        return found, [], []
    place = section.conditioning_dir.expanduser()
    names = [name_of(one, folder) for one in found]
    controls, unused = companions(names, place, "control pictures", section.folders()[place])
    pairs = list(zip(found, controls, strict=True))
    reason = f"no control picture of that name in {place}"
    skipped = [Skipped(one.path, reason, name_of(one, folder)) for one, control in pairs if not control]
    return [replace(one, control=control) for one, control in pairs if control], unused, skipped


def _without(found: Sequence[Found[Origin]], folder: Path, metadata: Path | None) -> list[Skipped[Origin]]:
    """Pictures without a control picture, where the folder should have one for each.

    Raises:
        DataError: If metadata gives some pictures one and not all, or nothing gives any.
    """
    names = [name_of(one, folder) for one in found if one.control is None]
    if not names:
        return []
    example = (
        'Write lines such as {"file_name": "1.png", "conditioning_image": "edges/1.png", "text": "a cat"}'
    )
    if len(names) == len(found) and metadata:
        what, fix = (
            f"No line of {metadata.name} names a control picture.",
            f"{example}, or set data.preprocess.",
        )
    elif len(names) == len(found):
        what = "The pictures have no control pictures."
        fix = (
            "Give a metadata.jsonl in the folder, a folder of control pictures with --conditioning-dir, or "
            "--preprocess edges to make them from the pictures."
        )
    elif metadata:
        what = f"Some pictures have no `conditioning_image`: {listing(names)}."
        fix = "Name one in each line, or remove these lines."
    else:
        reason = "it has no control picture"
        without = [one for one in found if one.control is None]
        return [Skipped(one.path, reason, name) for one, name in zip(without, names, strict=True)]
    raise DataError(what, where=str(metadata or folder), fix=fix)


def _read(found: Found[Origin], folder: Path, default: str, reader: Reader) -> _Pair | Skipped[Origin]:
    name = name_of(found, folder)
    try:
        picture, notes = read_picture(found.path, name, found.captions or (default,), reader)
    except PictureError as reason:
        return Skipped(found.path, str(reason), name)
    own = bool(found.captions)
    picture = replace(picture, repeats=found.repeats, mask=found.mask, captioned=own)
    if found.control is None:
        return _Pair(picture, picture, notes)
    control = relative_name(found.control, folder)
    try:
        return _Pair(picture, read_picture(found.control, control, ("",), reader)[0], notes)
    except PictureError as reason:
        return Skipped(found.path, f"its control picture {control}: {reason}", name)


def _check_shapes(pairs: Sequence[_Pair], folder: Path) -> None:
    """Refuses control pictures with another aspect ratio; those of another size are resized."""
    wrong = [
        f"{p.picture.name} ({p.picture.width}x{p.picture.height}) and "
        f"{p.control.name} ({p.control.width}x{p.control.height})"
        for p in pairs
        if not alike((p.control.width, p.control.height), (p.picture.width, p.picture.height))
    ]
    if wrong:
        raise DataError(
            f"Picture and control picture differ in shape: {listing(wrong, 3)}.",
            where=str(folder),
            fix="Make each control picture from its picture, without cropping or rotating it.",
        )
