"""Several folders as one: those of `data.sources` beside the main one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from finetune.config import DataSection, PairsSection, SourceSection, SubjectSection
from finetune.config.sources import KEY
from finetune.data.folder import Folder, Picture, list_pictures, scan_folder
from finetune.data.layouts import Skipped
from finetune.data.notes import duplicate_notes, listing, picture_notes
from finetune.data.origin import Origin
from finetune.data.pairs import PairedFolder, scan_pairs
from finetune.data.read import Reader
from finetune.data.streams.opening import is_stream
from finetune.errors import ConfigError, DataError
from finetune.files import shown

FolderT = TypeVar("FolderT", bound=Folder)


def scan_folders(
    main: Path | None,
    prompt: str | None,
    data: DataSection,
    reader: Reader | None = None,
    *,
    otherwise: str | None = None,
) -> Folder:
    """As `scan_folder`, of the main folder and those of `data.sources` that are not of the class.

    Args:
        main: The main folder; None for the data set that the settings name, or if there are only others.
        prompt: Caption of the pictures in it that have none.
        data: The recipe's settings.
        reader: How the files are read; as the settings have it if None.
        otherwise: The prompt of further folders that give none.

    Raises:
        DataError: If one of them is not there, or nothing in it can be trained on.
        ConfigError: If one of several is read as a stream.
    """
    _check_streams(main, data)
    parts: list[tuple[SourceSection | None, Folder]] = []
    if main is not None or data.dataset is not None:
        parts.append((None, scan_folder(main, prompt, data, reader)))
    for source in data.sources:
        if source.taught:
            text = otherwise if source.prompt is None else source.prompt
            parts.append((source, scan_folder(source.dir.expanduser(), text, data, reader)))
    return joined(parts)


def scan_paired_folders(data: PairsSection, reader: Reader | None = None) -> PairedFolder:
    """As `scan_pairs`, of the main folder, if there is one, and those of `data.sources`.

    Raises:
        DataError: As `scan_pairs`.
        ConfigError: If one of several is read as a stream.
    """
    _check_streams(data.data_dir and data.data_dir.expanduser(), data)
    parts: list[tuple[SourceSection | None, PairedFolder]] = []
    if data.data_dir is not None or data.dataset is not None:
        parts.append((None, scan_pairs(data, reader)))
    parts += [(source, scan_pairs(data.of(source), reader)) for source in data.sources]
    return joined(parts)


def scan_class_sources(data: SubjectSection, reader: Reader) -> list[tuple[SourceSection, Folder]]:
    """The folders of class pictures in `data.sources`; those without a caption get the class prompt.

    Raises:
        DataError: If pictures have neither.
    """
    parts: list[tuple[SourceSection, Folder]] = []
    plain = data.of_class()
    for source in data.class_sources:
        folder = source.dir.expanduser()
        prompt = data.class_prompt if source.prompt is None else source.prompt
        found = list_pictures(folder, data).found if prompt is None else ()
        if without := [one.path.name for one in found if not one.captions and one.default is None]:
            raise DataError(
                f"Class pictures without a caption: {listing(without)}.",
                where=str(folder),
                fix='Give the entry of data.sources a prompt, such as "a photo of a cat".',
            )
        parts.append((source, scan_folder(folder, prompt, plain, reader)))
    return parts


def joined(parts: Sequence[tuple[SourceSection | None, FolderT]]) -> FolderT:
    """Several folders as one, in which every name begins with that of its folder.

    Args:
        parts: Each with its entry of `data.sources`; None for the main one, which alone stays as it is.
    """
    first = parts[0][1]
    if len(parts) == 1 and parts[0][0] is None:
        return first
    labels = _labels([folder.path for _, folder in parts])
    pictures: list[Picture] = []
    controls: list[Picture] = []
    skipped: list[Skipped[Origin]] = []
    ignored: list[Skipped] = []
    notes: list[str] = []
    for label, (source, folder) in zip(labels, parts, strict=True):
        times = source.repeats if source else 1
        pictures += [
            replace(p, name=f"{label}/{p.name}", repeats=p.repeats * times, source=source)
            for p in folder.pictures
        ]
        if isinstance(folder, PairedFolder):
            controls += [replace(p, name=f"{label}/{p.name}") for p in folder.controls]
        skipped += [replace(s, name=f"{label}/{s.name}") for s in folder.skipped]
        ignored += [replace(s, name=f"{label}/{s.name}") for s in folder.ignored]
        own = _said_of_all(folder.ignored, folder.pictures)
        notes += [f"{label}: {note}" for note in folder.notes if note not in own]
    notes += _said_of_all(ignored, pictures)
    changes: dict[str, Any] = {
        "pictures": tuple(pictures),
        "skipped": tuple(skipped),
        "notes": tuple(notes),
        "ignored": tuple(ignored),
    }
    if isinstance(first, PairedFolder):
        changes["controls"] = tuple(controls)
    return replace(first, places=listing([str(folder.path) for _, folder in parts]), **changes)


def _check_streams(main: Path | None, data: DataSection) -> None:
    """Refuses a stream among several folders: how many pictures it has, and so its share, is not known."""
    for folder in [main, *(source.dir.expanduser() for source in data.sources)] if data.sources else ():
        if is_stream(folder, data):
            given = folder or data.dataset or "What is given"
            raise ConfigError(
                f"{given} is read as a stream, which cannot be joined with other folders.",
                where=KEY,
                fix="Train on it alone: put all shards into one folder, and leave data.sources out.",
            )


def _said_of_all(ignored: Sequence[Skipped], pictures: Sequence[Picture]) -> list[str]:
    """Notes that are made anew for all folders together."""
    said = picture_notes((one.name, one.reason) for one in ignored)
    return [*said, *duplicate_notes({p.name: p.digest for p in pictures})]


def _labels(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: as many of its last parts, the same number for all, as tell them apart."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    lengths = range(1, max(map(len, parts)) + 1)
    length = next((n for n in lengths if len({own[-n:] for own in parts}) == len(parts)), lengths[-1])
    return [shown("/".join(own[-length:])) for own in parts]
